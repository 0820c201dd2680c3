"""Matrix products of compiled programs, and their FLOPs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from targetsft_jax.planning.hlo import Shape, read
from targetsft_jax.planning.hlo.products import _valid_pairs, _Window


def test_products_in_loops_and_branches():
    def body(x, w):
        y = lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)
        return jnp.tanh(y), None

    def function(x, ws):
        x, _ = lax.scan(body, x, ws)
        return jnp.einsum("bd,bd->b", x, x) + (x @ ws[0])[:, 0]

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((6, 16), (5, 16, 16))
    ]
    program = read(jax.jit(function).lower(*shapes).compile().as_text())
    matrices = [dot for dot in program.dots if dot.right.dims == (16, 16)]
    assert sorted(dot.trips for dot in matrices) == [1, 5]
    assert {dot.flops for dot in matrices} == {2 * 6 * 16 * 16}
    assert all(dot.left == Shape("f32", (6, 16)) for dot in matrices)
    assert sum(dot.total for dot in matrices) == 6 * 2 * 6 * 16 * 16


def test_batched_products_and_gradients_count_all_axes():
    def loss(q, k):
        return jnp.sum(jnp.sin(jnp.einsum("bqhd,bkhd->bhqk", q, k)))

    q, k = (jax.ShapeDtypeStruct((2, n, 3, 8), jnp.float32) for n in (4, 5))
    program = read(jax.jit(jax.grad(loss, (0, 1))).lower(q, k).compile().as_text())
    # The scores, and an equally large product for the gradient of each operand.
    assert program.flops == 3 * 2 * (2 * 3 * 4 * 5 * 8)


def test_convolutions_that_are_batched_products():
    text = """HloModule m, num_partitions=1
ENTRY %main (q: bf16[4,16,8], k: bf16[4,32,8]) -> bf16[4,16,32] {
  %q = bf16[4,16,8]{2,1,0} parameter(0)
  %k = bf16[4,32,8]{2,1,0} parameter(1)
  ROOT %scores = bf16[4,16,32]{2,1,0} convolution(%q, %k), \
window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}
"""
    # The batch is a spatial axis; other window positions read dilation holes.
    assert read(text).flops == 4 * 2 * 16 * 32 * 8


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_outputs_and_kernel_positions_by_enumeration(seed):
    rng = np.random.default_rng(seed)
    inputs, kernel, stride, base, window = (int(n) for n in rng.integers(1, 5, 5))
    low, high = (int(n) for n in rng.integers(0, 3, 2))
    # The padded input is at least as long as the dilated kernel.
    reach = (kernel - 1) * window + 1
    extent = max(reach, (inputs - 1) * base + 1 + low + high)
    outputs = (extent - reach) // stride + 1
    # A padded, dilated row of ones is one at the input elements.
    row = np.zeros(extent)
    row[low : low + (inputs - 1) * base + 1 : base] = 1
    pairs = sum(
        row[output * stride + position * window]
        for output in range(outputs)
        for position in range(kernel)
    )
    settings = _Window(stride, low, base, window)
    assert _valid_pairs(inputs, kernel, outputs, settings) == pairs
