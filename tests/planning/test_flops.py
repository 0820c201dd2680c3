"""Model FLOPs against counts by hand and against the products of compiled steps."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from support.quick import QUICK

from targetsft_jax.config.load import load
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.abstract_step import abstract_step
from targetsft_jax.planning.chips import CHIPS
from targetsft_jax.planning.flops import (
    active_parameters,
    head_flops,
    int8_flops,
    layer_flops,
    step_flops,
)
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
    # query has 3 keys on average, with 8 products for the score and 8 for the value.
    assert layer_flops(SMALL, 5) == 3 * 2 * (672 + 3 * 16)
    assert head_flops(SMALL, 90) == 2 * 8 * 90


def test_windows_bound_the_keys_of_each_query():
    """Layers 1 and 3 of three have a window of 4 in rows of 10."""
    config = replace(SMALL, sliding_window=4, sliding_layers=(True, False, True))
    full = sum(range(1, 11))
    window = sum(min(4, position) for position in range(1, 11))
    products = 2 * 8 * (2 * window + full) / 10
    assert layer_flops(config, 10) == pytest.approx(2 * (3 * 672 + products))
    # A window as long as the row has no effect; a window bounds the mean context.
    assert layer_flops(replace(config, sliding_window=10), 10) == layer_flops(SMALL, 10)
    short, long = (layer_flops(config, 10, mean_context=n) for n in (3, 5))
    assert short == layer_flops(SMALL, 10, mean_context=3)
    assert long < layer_flops(SMALL, 10, mean_context=5)


def test_qwen_7b_flops_match_its_published_size():
    # 6.53e9 weights outside embedding and head, 545e6 in the head.
    assert layer_flops(QWEN_7B, 1) == pytest.approx(2 * 6.53e9, rel=1e-3)
    assert head_flops(QWEN_7B, 152064) == pytest.approx(2 * 0.545e9, rel=1e-3)


def test_a_mixture_of_experts_has_its_published_sizes():
    # Its model card: 30.5e9 parameters in total, 3.3e9 activated, 29.9e9 without
    # embeddings. A token's products are with the active ones and the routers.
    folder = Path(__file__).parents[2] / "configs" / "architectures"
    config = load_config(folder / "qwen3-30b-a3b")
    tables = 2 * config.vocab_size * config.hidden_size
    assert num_parameters(config) == pytest.approx(30.5e9, rel=2e-3)
    assert num_parameters(config) - tables == pytest.approx(29.9e9, rel=2e-3)
    assert active_parameters(config) == pytest.approx(3.3e9, rel=2e-2)
    active = active_parameters(config) - tables
    assert layer_flops(config, 1) == pytest.approx(2 * active, rel=1e-3)


def test_a_step_has_three_student_passes_one_teacher_pass_and_the_heads():
    flops = step_flops(SMALL, [QWEN_7B], length=64, vocabulary=90, remat="full")
    student, teacher = layer_flops(SMALL, 64), layer_flops(QWEN_7B, 64)
    heads = 3 * head_flops(SMALL, 90) + head_flops(QWEN_7B, 90)
    assert flops.model == 3 * student + teacher + heads
    # The output of `down` is not needed again: its product is not repeated.
    down = 2 * 3 * 8 * 20
    assert flops.executed == flops.model + student - down


def test_int8_products_run_at_their_own_rate():
    """Of a dense teacher all projections, of one with experts those of attention."""
    flops = step_flops(SMALL, [QWEN_7B], length=64, vocabulary=90, int8=[QWEN_7B])
    attention = 3584 * (2 * 28 + 2 * 4) * 128
    assert flops.int8 == 28 * 2 * (attention + 3 * 3584 * 18_944)
    experts = replace(QWEN_7B, num_experts=8, experts_per_token=2, expert_size=512)
    assert int8_flops(experts) == 28 * 2 * attention
    v5e, v5p = CHIPS["v5e"], CHIPS["v5p"]
    assert v5e.compute_seconds(3e12, 1e12) == 2e12 / 197e12 + 1e12 / 393e12
    seconds = v5p.compute_seconds(3e12, 1e12)  # no rate is published
    assert seconds == pytest.approx(3e12 / 459e12)


@pytest.mark.parametrize("remat", ["full", "attention", "attention_block", "dots"])
def test_recomputation_is_that_of_the_compiled_step(remat):
    """Products of the policy's program, beside those without rematerialisation."""
    keys = {
        "student.build.hidden_size": 64,
        "student.build.intermediate_size": 96,
        "target.name": "sft",
        "data.max_length": 32,
        "train.batch_size": 4,
        "train.loss_chunk": 128,
        "train.remat": remat,
        "train.attention": "xla",
    }
    config = load([text for k, v in keys.items() for text in (f"--{k}", str(v))])
    step = abstract_step(config, make_mesh(devices=jax.devices()[:1]))
    program = read(step.lowered.compile(compiler_options=QUICK).as_text())
    flops = step_flops(
        step.spec.student,
        [],
        length=32,
        vocabulary=step.spec.vocab_size,
        mean_context=32,
        remat=remat,
    )
    assert flops.recomputed > 0
    assert program.flops == pytest.approx(128 * flops.executed, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, policies, label_heads",
    [("psft", 1, 0), ("iw_sft", 0, 1)],
)
def test_policies_add_the_products_of_the_program(method, policies, label_heads):
    """On one device; test_plan.py has Target-SFT on eight."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 2}
    keys = {
        f"{role}.build.{key}": value
        for role in ("student", "teacher")
        for key, value in sizes.items()
    }
    keys |= {
        "target.name": method,
        "data.max_length": 32,
        "train.batch_size": 4,
        # One chunk: the loop over chunks has no known trip count and counts once.
        "train.loss_chunk": 128,
    }
    config = load([text for k, v in keys.items() for text in (f"--{k}", str(v))])
    step = abstract_step(config, make_mesh(devices=jax.devices()[:1]))
    program = read(step.lowered.compile(compiler_options=QUICK).as_text())
    flops = step_flops(
        step.spec.student,
        step.spec.frozen.values(),
        length=32,
        vocabulary=step.spec.vocab_size,
        mean_context=32,
        policies=policies,
        label_heads=label_heads,
    )
    assert program.flops == pytest.approx(128 * flops.model, rel=0.03)
    assert step.spec.numerics.dtype == jnp.float32
