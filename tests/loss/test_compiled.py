"""Compiled loss: no array beyond a chunk of logits, and the fewest matmuls."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import fused_loss
from targetsft_jax.loss import reference_loss
from targetsft_jax.planning.hlo import read

# V·N is far above the size of every necessary array: N·D, V·D and C·V.
N, D, V, CHUNK = 512, 8, 1009, 32


def _compile(name, tokens, function, **options):
    """Loss and both gradients on [tokens, V], compiled but not run."""

    def array(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, dtype)

    def total(hidden, head, labels, weights, other):
        total_flops = function(
            name,
            hidden,
            head,
            labels,
            weights=weights,
            teacher=other,
            reference=other,
            **options,
        )
        return total_flops[0] if isinstance(total_flops, tuple) else total_flops

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


def _compiled(*arguments, **options):
    """`_lowered`, compiled but not run."""
    return _lowered(*arguments, **options).compile()


def _lowered(name, tokens, chunk, gradients, head, other, dtype="float32", **options):
    """The loss, or loss and both gradients, with heads [V, D] and [V, D']."""

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    def total(hidden, head, labels, weights, other):
        return fused_loss(
            name,
            hidden,
            head,
            labels,
            weights=weights,
            chunk_size=chunk,
            teacher=other,
            reference=other,
            **options,
        )[0]

    by = (0, 1) if options.get("head_gradient", True) else 0
    run = jax.value_and_grad(total, by) if gradients else total
    second = (array(tokens, other[1]), array(*other))
    hidden, labels = array(tokens, head[1]), array(tokens, dtype="int32")
    weights = array(tokens, dtype="float32")
    abstract = (hidden, array(*head), labels, weights, second)
    return jax.jit(run).lower(*abstract)


def _largest_array(compiled) -> int:
    """Elements of the largest array that the compiled program names."""
    shapes = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def _temporaries(compiled) -> int:
    return compiled.memory_analysis().temp_size_in_bytes


# F_s, F_t: one matmul of hidden states and head, of the student and of the teacher.
WITHOUT_A_SECOND = ["sft", "dft", "eaft", "label_smoothing", "gem"]
WITH_A_SECOND = ["kl", "kd", "kd_h", "target_sft"]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", [*WITHOUT_A_SECOND, *WITH_A_SECOND])
@pytest.mark.parametrize("gradients", [True, False], ids=["pulled", "value"])
def test_products_are_the_fewest(name: str, gradients: bool):
    """3 F_s + F_t with gradients, F_s + F_t for the value alone."""
    size, chunks = 2003, 8
    wide = {"head": (size, 64), "other": (size, 96)}
    program = read(_compiled(name, 512, 64, gradients, **wide).as_text())
    # The loop ends after the last live token: its length is not in the program.
    total_flops = sum(dot.flops * dot.times(chunks) for dot in program.dots)
    student, other = 2 * 512 * size * 64, 2 * 512 * size * 96
    expected = (3 if gradients else 1) * student + other * (name in WITH_A_SECOND)
    assert total_flops == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", ["sft", "target_sft"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_frozen_head_has_neither_product_nor_array_of_its_gradient(name, frozen):
    """2 F_s + F_t, and nothing [V, D] in float32; the trained head is the control."""
    size, chunks = 2003, 8
    options = {"dtype": "bfloat16", "head_gradient": not frozen}
    lowered = _lowered(name, 512, 64, True, (size, 72), (size, 96), **options)
    # Before XLA, which widens the head on a CPU, for lack of bfloat16 matmuls.
    assert (f"tensor<{size}x72xf32>" in lowered.as_text()) != frozen
    program = read(lowered.compile().as_text())
    total_flops = sum(dot.flops * dot.times(chunks) for dot in program.dots)
    student, other = 2 * 512 * size * 72, 2 * 512 * size * 96
    expected = (2 if frozen else 3) * student + other * (name == "target_sft")
    assert total_flops == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "name, passes", [("sft", 1), ("dft", 1), ("eaft", 1), ("target_sft", 3)]
)
def test_no_second_softmax_without_an_alternative(name: str, passes: int):
    """Exponentials of full rows are computed for p and, if it exists, for T only."""
    size, chunk = 2003, 64
    text = _compiled(name, 512, chunk, True, (size, 64), (size, 96)).as_text()
    total_flops = [b for b in read(text).buffers if b.op == "exponential"]
    assert sum(b.shape.size >= chunk * size for b in total_flops) == passes


def test_memory_is_flat_in_tokens():
    """Eight times the tokens: the same temporaries."""
    abstract = dict(head=(8009, 16), other=(8009, 24), chunk=256, gradients=True)
    small, large = (
        _temporaries(_compiled("target_sft", tokens, **abstract))
        for tokens in (2048, 8 * 2048)
    )
    assert large == pytest.approx(small, rel=0.02)


CAPS = {"student": 30.0, "teacher": 30.0}


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "name, caps",
    [(name, None) for name in ("sft", "eaft", "kl", "gem", "target_sft")]
    + [("target_sft", CAPS)],
)
def test_no_array_of_tokens_by_vocabulary(name: str, caps):
    options = {"chunk_size": CHUNK, "logit_caps": caps}
    small = _compile(name, N, fused_loss, **options)
    large = _compile(name, 4 * N, fused_loss, **options)
    # The largest arrays are a chunk's logits and the head: none grows with N·V.
    assert _largest_array(small) <= CHUNK * V
    assert _largest_array(large) <= max(CHUNK * V, 4 * N * D)
    # Per further token: its hidden states and gradient (twice, for copies
    # by the loop), the teacher's, and a few scalars. Logits would be 4·V = 4036 bytes.
    grown = _temporaries(large) - _temporaries(small)
    assert grown <= 3 * N * 4 * (5 * D + 16)


def test_the_dense_oracle_has_an_array_of_tokens_by_vocabulary():
    """The control: the same measurements detect the array in the oracle."""
    small = _compile("target_sft", N, reference_loss)
    large = _compile("target_sft", 4 * N, reference_loss)
    assert _largest_array(small) >= N * V
    assert _temporaries(large) - _temporaries(small) >= 3 * N * V * 4


def test_bfloat16_matmuls_have_bfloat16_operands():
    """Matmuls take bfloat16 operands; only their sums are float32."""
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
