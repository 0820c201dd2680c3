"""Memory per device: XLA's analysis, exact arguments, estimated temporaries."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from support import rig

from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.hlo import Program, Shape
from targetsft_jax.planning.hlo.buffers import Buffer
from targetsft_jax.planning.memory import (
    Memory,
    argument_parts,
    compiled_memory,
    materialises_scores,
    rows_per_device,
    temporary_parts,
)

LENGTH = 64


def _bytes(parts) -> dict[str, float]:
    return {part.name: part.gib * GIB for part in parts}


def test_a_reported_peak_is_preferred_to_the_sum():
    analysis = SimpleNamespace(
        argument_size_in_bytes=4 * GIB,
        temp_size_in_bytes=3 * GIB,
        output_size_in_bytes=2 * GIB,
        alias_size_in_bytes=1 * GIB,
    )
    compiled = SimpleNamespace(memory_analysis=lambda: analysis)
    assert compiled_memory(compiled, 7.5) == Memory(4, 3, 8, 8, 7.5)
    analysis.peak_memory_in_bytes = 6 * GIB
    assert compiled_memory(compiled, 7.5) == Memory(4, 3, 6, 6, 7.5)


@pytest.mark.parametrize(
    "needed, capacity, fits", [(8, 8, True), (8.1, 8, False), (8, None, True)]
)
def test_a_step_fits_up_to_the_capacity(needed, capacity, fits):
    assert Memory(1, None, None, needed, capacity).fits is fits


def test_arguments_are_exact(make_step):
    # Halves over fsdp; 8 rows over data and fsdp, in 2 micro-batches.
    params = (64 * 32 + 32) / 2
    assert _bytes(argument_parts(make_step())) == {
        "student parameters": 2 * params,
        "AdamW moments": 2 * 4 * params,
        "teacher parameters": 2 * 64 * 32,
        "batch": 4 * 2 * 2 * LENGTH,
    }
    adapted = replace(make_step().spec, lora=Lora(2, 4.0, ("q",)))
    assert "adapters" in _bytes(argument_parts(make_step(adapted)))


def test_temporaries_are_the_largest_arrays_of_the_program(make_step):
    def buffer(name, size, source="", fused=False):
        return Buffer(name, (), source, Shape("f32", (size,)), "add", fused, 4 * size)

    buffers = tuple(buffer(f"b{n}", n, f"source {n}") for n in range(1, 6))
    program = Program((), (), (*buffers, buffer("b9", 9, fused=True)))
    parts = _bytes(temporary_parts(make_step(), program))
    assert parts == {f"f32[{n}] of source {n}": 4 * n for n in (5, 4, 3)}
    unnamed = Program((), (), (buffer("b1", 1),))
    assert list(_bytes(temporary_parts(make_step(), unnamed))) == ["f32[1] of add"]


def test_temporaries_without_a_program_are_estimated(make_step):
    """By hand: 2 rows of 64 tokens per device, half of heads and MLP, float32."""
    student = rig.STUDENT
    parts = _bytes(temporary_parts(make_step(), None))
    inputs = 4 * 2 * LENGTH * student.hidden_size * student.num_layers
    # Inputs of the layer and of its MLP, q and attention, k and v, gate and up.
    queries, keys = (
        student.head_dim * heads / 2
        for heads in (student.num_heads, student.num_kv_heads)
    )
    widths = 2 + 2 * (queries + keys + student.intermediate_size / 2) / (
        student.hidden_size
    )
    assert parts == pytest.approx(
        {
            "float32 gradients": 4 * (64 * 32 + 32) / 2,
            "activations of all layers under remat none": inputs * widths,
            "heads in the loss": 4 * student.hidden_size * student.vocab_size / 2,
            "logits of one chunk": 4 * 16 * student.vocab_size / 2,
        }
    )
    full = rig.with_numerics(make_step().spec, remat="full")
    parts = _bytes(temporary_parts(make_step(full), None))
    assert parts["activations of all layers under remat full"] == inputs


def test_rows_per_device_are_those_of_a_micro_batch(make_step):
    assert rows_per_device(make_step()) == 2
    assert rows_per_device(make_step(mesh=make_mesh(tensor=8, data=1))) == 8


@pytest.mark.parametrize(
    "attention, platform, result",
    [("auto", "tpu", True), ("xla", "gpu", True), ("xla", "cpu", False)],
)
def test_the_portable_attention_materialises_scores(
    attention, platform, result, monkeypatch, make_step
):
    """Rows of 64 tokens are not a multiple of 128, which splash attention needs."""
    from targetsft_jax.parallel import mesh as meshes
    from targetsft_jax.planning import memory

    for module in (memory, meshes):
        monkeypatch.setattr(module, "platform", lambda mesh: platform)
    spec = rig.with_numerics(make_step().spec, attention=attention)
    assert materialises_scores(make_step(spec)) is result
    parts = _bytes(temporary_parts(make_step(spec), None))
    scores = 4 * 2 * rig.STUDENT.num_heads / 2 * LENGTH**2
    expected = scores if result else None
    assert parts.get("attention scores of one layer") == expected
