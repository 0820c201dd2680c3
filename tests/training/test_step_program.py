"""What the compiled train step holds, multiplies and sends: read from its program."""

import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig

from targetsft_jax.loss import reference_loss
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.hlo import Program, read
from targetsft_jax.training import micro_batch

LINEAR = optax.sgd(1e-2)

# 2,048 tokens, so that [tokens, V] is 64 times a chunk's logits and parameters, and 16
# times the largest thing that is rightly there: the attention weights of both layers.
LARGE, LONG, WIDE, CHUNK = 64, 32, 4096, 32


def _compiled_large(dtype):
    """The step of a model with a large vocabulary, compiled but not run."""
    config = replace(rig.STUDENT, vocab_size=WIDE)
    spec = replace(
        rig.make_spec("target_sft", loss_chunk=CHUNK, dtype=dtype),
        student=config,
        frozen={"teacher": config},
        vocab_size=WIDE,
        histograms=True,
    )
    return rig.lower(spec, LINEAR, rig.one_device(), LARGE, LONG).compile()


def _largest(compiled) -> int:
    """Elements of the largest floating array that the compiled program names."""
    shapes = re.findall(r"\b(?:f32|bf16|f16)\[([0-9,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)


def test_no_array_of_tokens_by_vocabulary_in_the_training_step():
    """In the accelerators' dtype, whose program has arrays of both kinds."""
    compiled = _compiled_large(jnp.bfloat16)
    dense = LARGE * LONG * WIDE
    assert _largest(compiled) <= dense // 16
    # All temporaries together are less than one such array: there is room for none.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * dense


def test_the_dense_loss_would_be_seen_there(monkeypatch):
    """The control: the same two measures, with the dense loss in the same step."""

    def dense(name, hidden, head, labels, *, layout, chunk_size, **arguments):
        assert arguments.pop("head_gradient") and arguments.pop("histograms")
        real = arguments.pop("vocab_size")
        assert head.shape[0] == real
        return reference_loss(name, hidden, head, labels, **arguments), {}

    monkeypatch.setattr(micro_batch, "fused_loss", dense)
    compiled = _compiled_large(jnp.float32)
    size = LARGE * LONG * WIDE
    assert _largest(compiled) >= size
    assert compiled.memory_analysis().temp_size_in_bytes > 4 * 4 * size


# Layers of different numbers, so that their loops are told apart by how often they run.
STUDENT = replace(rig.STUDENT, num_layers=3, hidden_size=64)
TEACHER = replace(rig.OTHER, num_layers=5, hidden_size=64, num_heads=8, qkv_bias=False)
MATRICES = 7  # of a layer: q, k, v, o, gate, up, down


def _small(**changes):
    """The spec of these two models, at the accelerators' settings."""
    spec = rig.make_spec("target_sft", dtype=jnp.bfloat16, remat="full", loss_chunk=8)
    models = {"student": STUDENT, "frozen": {"teacher": TEACHER}}
    return replace(spec, histograms=True, **models, **changes)


def test_no_product_of_two_wide_arrays():
    """In bfloat16 every product has a bfloat16 operand: none runs at float32's rate."""
    text = rig.lower(_small(), LINEAR, make_mesh(fsdp=8), 8, 16).as_text()
    products = re.findall(
        r"dot_general[^\n]*: \(tensor<[0-9x]*x(\w+)>, tensor<[0-9x]*x(\w+)>\)", text
    )
    assert len(products) > 30
    assert ("f32", "f32") not in products


@pytest.mark.parametrize("sizes", [(8, 1), (4, 2)], ids=["fsdp 8", "fsdp 4 tensor 2"])
def test_collectives_of_a_layer_are_as_designed(sizes):
    """A matrix is gathered where it is used, and its gradient is summed once.

    The student's layers run forward, and forward and backward again when they are
    recomputed; there each matrix is gathered once for both. The teacher's run once.
    """
    fsdp, tensor = sizes
    mesh = make_mesh(fsdp=fsdp, tensor=tensor)
    program = read(rig.lower(_small(), LINEAR, mesh, 16, 16).compile().as_text())
    student, teacher = (
        _in_layers(program, config.num_layers) for config in (STUDENT, TEACHER)
    )
    gathers = [c for c in student if c.kind == "all-gather"]
    assert len(gathers) == 2 * MATRICES
    assert len([c for c in teacher if c.kind == "all-gather"]) == MATRICES
    # Each device sends of every matrix what it has of it, to all others of its group.
    whole = sum(_matrices(STUDENT)) * 4 // tensor
    assert sum(c.bytes for c in gathers) == 2 * whole * (fsdp - 1) // fsdp
    # A gradient of every matrix and both norms leaves a layer, in one collective.
    over_fsdp = [c for c in student if "reduce" in c.kind and c.group == fsdp]
    assert [len(c.shapes) for c in over_fsdp] == [MATRICES + 2]
    # Tensor parallelism adds the outputs of attention and MLP, and nothing else.
    states = [c for c in teacher if "reduce" in c.kind]
    assert len(states) == (2 if tensor > 1 else 0)
    assert all(c.group == tensor for c in states)


def test_a_gathered_matrix_per_token_would_be_seen():
    """The control: one device has no collective at all, and eight of data no gather."""
    alone = read(
        rig.lower(_small(), LINEAR, rig.one_device(), 8, 16).compile().as_text()
    )
    assert all(c.group == 1 for c in alone.collectives)
    data = read(
        rig.lower(_small(), LINEAR, make_mesh(data=8), 8, 16).compile().as_text()
    )
    assert not [c for c in _in_layers(data, TEACHER.num_layers)]


def _in_layers(program: Program, layers: int):
    """Collectives in the loops over so many layers."""
    return [c for c in program.collectives if [x.trips for x in c.loops] == [layers]]


def _matrices(config) -> list[int]:
    """Elements of a layer's matrices."""
    width, head = config.hidden_size, config.head_dim
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    return [width * n for n in (queries, keys, keys, queries)] + (
        [width * config.intermediate_size] * 3
    )
