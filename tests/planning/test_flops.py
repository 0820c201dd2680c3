"""Model FLOPs: against a count by hand, and against the products of a real step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from targetsft_jax.config.load import load
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.abstract_step import abstract_step
from targetsft_jax.planning.flops import head, layers, step_flops
from targetsft_jax.planning.hlo import read

SMALL = DecoderConfig(
    vocab_size=100,
    hidden_size=8,
    intermediate_size=20,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
)
QWEN_7B = DecoderConfig(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    tie_word_embeddings=False,
)


def test_a_layer_by_hand():
    # q 8x8, k and v 8x4, o 8x8, gate, up and down 8x20: 672 weights. In a row of 5 a
    # token sees 3 tokens on average: 8 products for their scores, 8 for the mix.
    assert layers(SMALL, 5) == 3 * 2 * (672 + 3 * 16)
    assert head(SMALL, 90) == 2 * 8 * 90


def test_windows_are_counted_token_by_token():
    """Layers 1 and 3 of three have a window of 4 in rows of 10."""
    config = replace(SMALL, sliding_window=4, sliding_layers=(True, False, True))
    everything = sum(range(1, 11))
    window = sum(min(4, place) for place in range(1, 11))
    products = 2 * 8 * (2 * window + everything) / 10
    assert layers(config, 10) == pytest.approx(2 * (3 * 672 + products))
    # As long as the row it is none; and what is said to be seen is cut by it.
    assert layers(replace(config, sliding_window=10), 10) == layers(SMALL, 10)
    assert layers(config, 10, seen=3) == layers(SMALL, 10, seen=3)
    assert layers(config, 10, seen=5) < layers(SMALL, 10, seen=5)


def test_qwen_7b_is_as_large_as_its_name():
    # 6.53e9 weights outside embedding and head, 545e6 in the head.
    assert layers(QWEN_7B, 1) == pytest.approx(2 * 6.53e9, rel=1e-3)
    assert head(QWEN_7B, 152064) == pytest.approx(2 * 0.545e9, rel=1e-3)


def test_a_step_is_three_students_a_teacher_and_the_heads():
    found = step_flops(SMALL, [QWEN_7B], length=64, vocabulary=90, remat="full")
    student, teacher = layers(SMALL, 64), layers(QWEN_7B, 64)
    assert found.model == 3 * (student + head(SMALL, 90)) + teacher + head(QWEN_7B, 90)
    assert found.executed == found.model + student


@pytest.mark.parametrize(
    "method, policies, labels", [("target_sft", 0, 0), ("psft", 1, 0), ("iw_sft", 0, 1)]
)
def test_the_products_of_a_compiled_step(method, policies, labels):
    """One device, no rematerialisation, attention not cut to its causal half."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 2}
    arguments = {
        f"{role}.build.{key}": value + extra
        for role, extra in (("student", 0), ("teacher", 0))
        for key, value in sizes.items()
    }
    arguments |= {
        "target.name": method,
        "data.max_length": 32,
        "train.batch_size": 4,
        # One chunk, since its loop ends where no target is left.
        "train.loss_chunk": 128,
    }
    config = load([text for k, v in arguments.items() for text in (f"--{k}", str(v))])
    step = abstract_step(config, make_mesh(devices=jax.devices()[:1]))
    quick = {"xla_backend_optimization_level": 0}
    program = read(step.lowered.compile(compiler_options=quick).as_text())
    expected = step_flops(
        step.spec.student,
        step.spec.frozen.values(),
        length=32,
        vocabulary=step.spec.vocab_size,
        seen=32,
        policies=policies,
        labels=labels,
    )
    assert program.flops == pytest.approx(128 * expected.model, rel=0.03)
    assert step.spec.dtype == jnp.float32
