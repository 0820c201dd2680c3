"""Train step compiled for TPUs; needs libtpu, but no TPU."""

from dataclasses import replace

import jax.numpy as jnp
import optax
import pytest
from support import rig

from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.hlo import read
from targetsft_jax.planning.topology import get_topology, prepare_jax

pytestmark = [pytest.mark.libtpu, pytest.mark.slow]

ROWS, LENGTH, VOCABULARY = 8, 512, 4096
STUDENT = replace(
    rig.STUDENT,
    num_layers=3,
    hidden_size=256,
    intermediate_size=768,
    num_heads=2,
    num_kv_heads=1,
    head_dim=128,
    vocab_size=VOCABULARY,
)
TEACHER = replace(
    STUDENT, num_layers=5, vocab_size=VOCABULARY + 128, tie_word_embeddings=False
)


@pytest.fixture(scope="module")
def text() -> str:
    """HLO text of the step compiled for eight v5e chips."""
    prepare_jax("v5e:2x4")
    mesh = make_mesh(data=1, fsdp=8, devices=get_topology("v5e:2x4").devices)
    spec = rig.make_spec("target_sft", dtype=jnp.bfloat16, remat="full", loss_chunk=256)
    models = {"student": STUDENT, "frozen": {"teacher": TEACHER}}
    spec = replace(spec, vocab_size=VOCABULARY, histograms=True, **models)
    lowered = rig.lower(spec, optax.adamw(1e-3), mesh, ROWS, LENGTH)
    return lowered.compile().as_text()


def test_attention_is_the_splash_kernel_without_scores(text):
    # Student: forward, recomputation and two backward kernels; teacher: forward.
    assert "splash" in text and text.count('custom_call_target="tpu_custom_call"') == 5
    assert not [s for s in read(text).shapes() if s.dims[-2:] == (LENGTH, LENGTH)]


def test_no_array_of_tokens_by_vocabulary(text):
    """Logits exist per chunk and vocabulary shard only."""
    dense = LENGTH * VOCABULARY
    largest = max(s.size for s in read(text).shapes() if s.dtype != "u8")
    assert largest <= dense // 2


def test_one_collective_in_the_loop_over_chunks(text):
    program = read(text)
    inside = [c for c in program.collectives if c.trips is None]
    assert [c.kind for c in inside] == ["all-gather"]
    # Twelve float32 statistics of 256 tokens.
    assert inside[0].operands[0].bytes == 12 * 256 * 4
    # Products of the loop: two logits, two gradients.
    assert len([d for d in program.dots if d.trips is None]) == 4


def test_layers_are_gathered_in_bfloat16_and_no_product_is_float32(text):
    program = read(text)
    for layers in (STUDENT.num_layers, TEACHER.num_layers):
        inside = [
            c for c in program.collectives if [x.trips for x in c.loops] == [layers]
        ]
        gathers = [c for c in inside if c.kind == "all-gather"]
        assert len(gathers) >= 7
        assert {s.dtype for c in gathers for s in c.shapes} == {"bf16"}
    # One collective reduces the gradients of all seven matrices of a layer.
    scattered = [
        c
        for c in program.collectives
        if c.kind == "reduce-scatter" and [x.trips for x in c.loops] == [3]
    ]
    assert [len(c.shapes) for c in scattered] == [7]
    wide = [d for d in program.dots if {d.left.dtype, d.right.dtype} == {"f32"}]
    assert not wide
