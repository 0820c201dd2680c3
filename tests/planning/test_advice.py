"""Advice: a key is listed if it helps and is not set yet."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning import advice as advice_module
from targetsft_jax.planning import memory
from targetsft_jax.planning.abstract_step import AbstractRole
from targetsft_jax.planning.advice import advice

SFT = ["--target.name", "sft", "--student.path", "absent"]


def _keys(step, *arguments, capacity=None) -> list[str]:
    """Keys of the lines of advice: the text before the colon."""
    config = load([*SFT, *arguments])
    return [line.partition(":")[0] for line in advice(config, step, capacity)]


def test_cheap_changes_come_first(make_step):
    """No key is set: two rows per device, float32, a large chunk."""
    spec = rig.with_numerics(make_step().spec, loss_chunk=1024)
    assert _keys(make_step(spec)) == [
        "train.remat full",
        "train.accumulation_steps 2",
        "mesh.data 1, mesh.fsdp 4",
        "train.loss_chunk 512",
        "student.dtype bfloat16",
        "lora.rank 16",
        "data.max_length",
    ]


def test_keys_that_are_set_are_not_listed(make_step):
    spec = rig.with_numerics(make_step().spec, loss_chunk=512)
    spec = replace(spec, lora=Lora(2, 4.0, ("q",)))
    # One row per device; fsdp has all devices except those of tensor.
    step = make_step(spec, mesh=make_mesh(fsdp=4, tensor=2), rows=4)
    half = AbstractRole(rig.STUDENT, jnp.dtype("bfloat16"), "a test")
    step = replace(step, roles={"student": half})
    assert _keys(step, "--train.remat", "full") == [
        "mesh.context 2, mesh.fsdp 2, train.accumulation_steps 2",
        "data.max_length",
    ]


def test_tensor_parallelism_for_one_row_per_device(make_step):
    one = make_step(mesh=make_mesh(fsdp=8), rows=8)
    two = make_step(mesh=make_mesh(fsdp=8), rows=16)
    assert "mesh.tensor 2" in _keys(one) and "mesh.tensor 2" not in _keys(two)


def test_rows_are_shared_where_each_device_has_one(make_step):
    mesh = make_mesh(data=1, fsdp=4, context=2)
    shared = "mesh.context 4, mesh.fsdp 2, train.accumulation_steps 2"
    assert shared in _keys(make_step(mesh=mesh, rows=4))
    # No further, if the rows cannot be cut into 2 x 4 chunks, or have no devices left.
    length = ("--data.max_length", "60")
    assert shared not in _keys(make_step(mesh=mesh, rows=4), *length)
    alone = make_step(mesh=make_mesh(data=1, context=8), rows=1)
    assert not any("mesh.context" in key for key in _keys(alone))


def test_accumulation_steps_are_doubled(make_step):
    keys = _keys(make_step(), "--train.accumulation_steps", "4")
    assert "train.accumulation_steps 8" in keys


@pytest.mark.parametrize("factor, devices", [(2.1, None), (1.9, 16), (0.9, 32)])
def test_a_larger_topology_if_arguments_take_half_of_the_capacity(
    factor, devices, make_step
):
    step = make_step()
    state = sum(part.gib for part in memory.argument_parts(step))
    config = load(SFT)
    lines = list(advice(config, step, factor * state))
    larger = [line for line in lines if line.startswith("a larger topology")]
    assert len(larger) == (devices is not None)
    if devices:
        assert f"with {devices} devices" in larger[0]


def test_portable_attention_is_listed_if_it_materialises_scores(make_step, monkeypatch):
    long = "data.max_length a multiple of 128 and train.attention auto"
    assert long not in _keys(make_step())
    for module in (memory, advice_module, meshes):
        monkeypatch.setattr(module, "platform", lambda mesh: "tpu")
    assert long in _keys(make_step())
    # Chunks of shared rows, not rows, are multiples of 128; GPUs have no such kernel.
    shared = make_step(mesh=make_mesh(data=1, fsdp=4, context=2))
    assert long.replace("128", "512") in _keys(shared)
    for module in (memory, advice_module, meshes):
        monkeypatch.setattr(module, "platform", lambda mesh: "gpu")
    assert "mesh.context 1" in _keys(shared)
