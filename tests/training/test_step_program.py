"""Arrays, products and collectives of the compiled train step."""

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

# 2,048 tokens: [tokens, V] is 64 times the logits of a chunk or the parameters, and 16
# times the largest expected array, the attention weights of both layers.
LARGE, LONG, WIDE, CHUNK = 64, 32, 4096, 32


def _compiled_large(dtype):
    """Compile the step of a model with a large vocabulary."""
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
    """Return the elements of the largest floating-point array of the program."""
    shapes = re.findall(r"\b(?:f32|bf16|f16)\[([0-9,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)


def test_no_array_of_tokens_by_vocabulary_in_the_training_step():
    """In bfloat16, where the program has float32 arrays too."""
    compiled = _compiled_large(jnp.bfloat16)
    dense = LARGE * LONG * WIDE
    assert _largest(compiled) <= dense // 16
    # All temporaries together are smaller than one such array.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * dense


@pytest.mark.slow
def test_the_dense_loss_is_detected(monkeypatch):
    """Control: the same two measures with the dense loss in the step."""

    def dense(name, hidden, head, labels, *, layout, chunk_size, **arguments):
        assert arguments.pop("head_gradient") and arguments.pop("histograms")
        real = arguments.pop("vocab_size")
        assert head.shape[0] == real
        return reference_loss(name, hidden, head, labels, **arguments), {
            "labels_outside": 0
        }

    monkeypatch.setattr(micro_batch, "fused_loss", dense)
    compiled = _compiled_large(jnp.float32)
    size = LARGE * LONG * WIDE
    assert _largest(compiled) >= size
    assert compiled.memory_analysis().temp_size_in_bytes > 4 * 4 * size


# Different numbers of layers, so that trip counts distinguish the loops.
STUDENT = replace(rig.STUDENT, num_layers=3, hidden_size=64)
TEACHER = replace(rig.OTHER, num_layers=5, hidden_size=64, num_heads=8, qkv_bias=False)
MATRICES = 7  # of a layer: q, k, v, o, gate, up, down


def _small(**changes):
    """Spec of these two models with the settings of accelerators."""
    spec = rig.make_spec("target_sft", dtype=jnp.bfloat16, remat="full", loss_chunk=8)
    models = {"student": STUDENT, "frozen": {"teacher": TEACHER}}
    return replace(spec, histograms=True, **models, **changes)


def test_no_product_of_two_float32_arrays():
    """Every product has a bfloat16 operand, so none runs at the float32 rate."""
    text = rig.lower(_small(), LINEAR, make_mesh(fsdp=8), 8, 16).as_text()
    products = re.findall(
        r"dot_general[^\n]*: \(tensor<[0-9x]*x(\w+)>, tensor<[0-9x]*x(\w+)>\)", text
    )
    assert len(products) > 30
    assert ("f32", "f32") not in products


@pytest.mark.sweep(1)
@pytest.mark.parametrize("sizes", [(8, 1), (4, 2)], ids=["fsdp 8", "fsdp 4 tensor 2"])
def test_each_matrix_is_gathered_per_pass_and_its_gradient_reduced_once(sizes):
    """Gathers: two per matrix of the student, one per matrix of the teacher.

    The student's layers run forward, then recomputed and backward, with one gather for
    both; the teacher's run forward.
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
    # Each device sends its shard of every matrix to all others of its group.
    layer = sum(_matrices(STUDENT)) * 4 // tensor
    assert sum(c.bytes for c in gathers) == 2 * layer * (fsdp - 1) // fsdp
    # One collective reduces the gradients of all matrices and both norms of a layer.
    over_fsdp = [c for c in student if "reduce" in c.kind and c.group == fsdp]
    assert [len(c.shapes) for c in over_fsdp] == [MATRICES + 2]
    # Tensor parallelism reduces only the outputs of attention and MLP.
    states = [c for c in teacher if "reduce" in c.kind]
    assert len(states) == (2 if tensor > 1 else 0)
    assert all(c.group == tensor for c in states)


@pytest.mark.slow
def test_data_parallelism_gathers_no_matrix():
    """Control: one device has no collectives, eight data-parallel devices no gather."""
    alone = read(
        rig.lower(_small(), LINEAR, rig.one_device(), 8, 16).compile().as_text()
    )
    assert all(c.group == 1 for c in alone.collectives)
    data = read(
        rig.lower(_small(), LINEAR, make_mesh(data=8), 8, 16).compile().as_text()
    )
    assert not [c for c in _in_layers(data, TEACHER.num_layers)]


def _in_layers(program: Program, layers: int):
    """List the collectives in loops over `layers` layers."""
    return [c for c in program.collectives if [x.trips for x in c.loops] == [layers]]


def _matrices(config) -> list[int]:
    """Return the elements of each matrix of a layer."""
    width, head = config.hidden_size, config.head_dim
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    return [width * n for n in (queries, keys, keys, queries)] + (
        [width * config.intermediate_size] * 3
    )
