"""What the compiled loss holds in memory: one chunk of logits, never all of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import fused_loss
from targetsft_jax.loss import reference_loss

# V·N is far above every array that is needed: N·D, V·D and C·V.
N, D, V, CHUNK = 512, 8, 1009, 32


def _compile(name, tokens, function, **options):
    """Loss and both gradients on [tokens, V], compiled but not run."""

    def array(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, dtype)

    def total(hidden, head, labels, weights, other):
        made = function(
            name,
            hidden,
            head,
            labels,
            weights=weights,
            teacher=other,
            reference=other,
            **options,
        )
        return made[0] if isinstance(made, tuple) else made

    return (
        jax.jit(jax.value_and_grad(total, (0, 1)))
        .lower(
            array(tokens, D),
            array(V, D),
            array(tokens, dtype="int32"),
            array(tokens),
            (array(tokens, D), array(V, D)),
        )
        .compile()
    )


def _largest_array(compiled) -> int:
    """Elements of the largest array that the compiled program names."""
    shapes = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def _temporaries(compiled) -> int:
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["sft", "eaft", "kl", "gem", "target_sft"])
def test_no_array_of_tokens_by_vocabulary(name: str):
    small = _compile(name, N, fused_loss, chunk_size=CHUNK)
    large = _compile(name, 4 * N, fused_loss, chunk_size=CHUNK)
    # The chunk's logits and the head are what is left: no array grows with N·V.
    assert _largest_array(small) <= CHUNK * V
    assert _largest_array(large) <= max(CHUNK * V, 4 * N * D)
    # Per further token: its hidden states and gradient (twice, for the loop's own
    # copies), the teacher's, and a few scalars. Logits would be 4·V = 4036 bytes.
    grown = _temporaries(large) - _temporaries(small)
    assert grown <= 3 * N * 4 * (5 * D + 16)


def test_the_dense_oracle_does_have_them():
    """The control: the same measurements see the array where there is one."""
    small = _compile("target_sft", N, reference_loss)
    large = _compile("target_sft", 4 * N, reference_loss)
    assert _largest_array(small) >= N * V
    assert _temporaries(large) - _temporaries(small) >= 3 * N * V * 4


def test_bfloat16_takes_no_wide_product():
    """Products of bfloat16 stay so: only their sums are float32."""
    hidden, head = jnp.zeros((64, 8), jnp.bfloat16), jnp.zeros((101, 8), jnp.float32)
    other = (jnp.zeros((64, 16), jnp.bfloat16), jnp.zeros((101, 16), jnp.float32))

    def loss(hidden, head):
        return fused_loss(
            "target_sft",
            hidden,
            head,
            jnp.zeros(64, int),
            weights=jnp.ones(64),
            teacher=other,
            chunk_size=16,
        )[0]

    text = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head).as_text()
    products = re.findall(
        r"dot_general[^\n]*: \(tensor<[0-9x]*x(\w+)>, tensor<[0-9x]*x(\w+)>\)"
        r" -> tensor<[0-9x]*x(\w+)>",
        text,
    )
    # Two logits, and the two gradients.
    assert products == [("bf16", "bf16", "f32")] * 4
