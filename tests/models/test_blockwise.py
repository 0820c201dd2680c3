"""Blockwise attention: equal to the portable one, over half of the square."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import blockwise, kernels
from targetsft_jax.models.remat import REMAT_POLICIES

# Three blocks of queries, the last of them shorter.
LENGTH, HEADS, KV_HEADS, SIZE = 300, 6, 2, 8


def _arrays():
    rng = np.random.default_rng(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    arrays = [jnp.asarray(rng.normal(size=(2, LENGTH, n, SIZE))) for n in heads]
    lengths = [[40, 110, 130, 20], [129, 100, 50, 21]]
    segments = [np.repeat([1, 2, 3, 0], row) for row in lengths]
    return arrays, jnp.asarray(np.stack(segments), jnp.int32)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"window": 100, "scale": 0.7},
        {"softcap": 2.0},
        {"window": 1, "softcap": 2.0, "scale": 0.1},
    ],
)
def test_outputs_and_gradients_equal_those_of_the_portable_kernel(how):
    """At padding, too."""
    with jax.enable_x64(True):
        (query, key, value, probe), segments = _arrays()
        assert query.dtype == jnp.float64

        def pulled(attend):
            def loss(*arrays):
                out = attend(*arrays, segments, **how)
                return jnp.sum(out * probe), out

            return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(query, key, value)

        actual, expected = pulled(kernels.blockwise), pulled(kernels.xla)
        for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
            # The portable softmax is in float32.
            scale = float(jnp.abs(right).max())
            np.testing.assert_allclose(left, right, rtol=0, atol=3e-6 * scale + 1e-12)


def _products(length, window=None, backward=False):
    """Multiplications of all products of scores, per query and head feature."""
    x = jax.ShapeDtypeStruct((1, length, 1, SIZE), jnp.float32)
    segments = jnp.ones((1, length), jnp.int32)

    def run(*arrays):
        return kernels.blockwise(*arrays, segments, window=window).sum()

    run = jax.grad(run, (0, 1, 2)) if backward else run
    return jax.jit(run).lower(x, x, x).cost_analysis()["flops"] / length / SIZE


@pytest.mark.parametrize("backward, products", [(False, 2), (True, 7)])
def test_the_keys_after_a_block_are_not_multiplied(backward, products):
    """Of the square of 1,024 x 1,024, eight blocks see 9/16."""
    square = 2 * products * 1024
    assert 9 / 16 * square < _products(1024, backward=backward) < 0.75 * square
    assert blockwise.BLOCKS == 8


def test_the_keys_before_a_window_are_not_multiplied():
    assert _products(2048, window=16) < 0.25 * _products(2048)


def test_long_rows_have_no_more_blocks():
    scores = blockwise._Scores(None, 1.0, None)
    assert [len(list(scores.blocks(n))) for n in (16, 128, 129, 1024, 32768)] == [
        *(1, 1, 2, 8, 8)
    ]


def test_dots_keep_the_attention_and_full_recomputes_it():
    """Scores are computed once forward and once backward, or twice backward."""
    x = jnp.ones((1, 16, 2, SIZE))
    segments = jnp.ones((1, 16), jnp.int32)

    def products(name):
        run = functools.partial(kernels.blockwise, segment_ids=segments)
        kept = jax.checkpoint(
            lambda *a: jnp.sin(run(*a)), policy=REMAT_POLICIES[name].policy
        )
        pulled = jax.value_and_grad(lambda *a: kept(*a).sum(), (0, 1, 2))
        return jax.jit(pulled).lower(x, x, x).as_text().count("dot_general")

    assert (products("dots"), products("full")) == (7, 9)
