"""Advise configuration changes that make a step fit into memory."""

import math
from collections.abc import Iterator

from targetsft_jax.config.roles import role_key
from targetsft_jax.config.schema import Config
from targetsft_jax.parallel.mesh import platform, row_shards
from targetsft_jax.planning.abstract_step import AbstractStep
from targetsft_jax.planning.memory import (
    argument_parts,
    materialises_scores,
    rows_per_device,
)


def advice(config: Config, step: AbstractStep, capacity: float | None) -> Iterator[str]:
    """Yield keys to change, most effective and least costly first.

    Args:
        config: configuration of the step.
        step: step that does not fit.
        capacity: GiB of HBM per device; None if unknown.
    """
    train, mesh = config.train, step.mesh
    rows = rows_per_device(step)
    if train.remat != "full":
        yield "train.remat full: keep only the input of each layer"
    if rows > 1:
        yield (
            f"train.accumulation_steps {train.accumulation_steps * 2}: each device "
            f"computes {rows} rows at a time"
        )
    if mesh.shape["data"] > 1:
        shards = row_shards(mesh)
        yield f"mesh.data 1, mesh.fsdp {shards}: shard parameters over all devices"
    if materialises_scores(step):
        yield _of_a_kernel(step)
    state = sum(part.gib for part in argument_parts(step))
    if capacity is not None and state > capacity / 2:
        devices = mesh.size * state / (capacity / 2)
        yield (
            f"a larger topology: parameters and moments alone take {state:.1f} GiB per "
            f"device; with {2 ** math.ceil(math.log2(devices))} devices they take at "
            "most half of its capacity"
        )
    context, fsdp = 2 * mesh.shape["context"], mesh.shape["fsdp"]
    # A teacher with rows of its own needs a context of 1.
    shared = not step.spec.teacher_rows and config.data.max_length % (2 * context) == 0
    if rows == 1 and fsdp % 2 == 0 and shared:
        yield (
            f"mesh.context {context}, mesh.fsdp {fsdp // 2}, train.accumulation_steps "
            f"{train.accumulation_steps * 2}: {context} devices share the tokens of a "
            "row"
        )
    if rows == 1 and mesh.shape["tensor"] == 1:
        yield "mesh.tensor 2: two devices share the heads and the MLP of a row"
    chunk = step.spec.numerics.loss_chunk
    if chunk > 512:
        yield f"train.loss_chunk {chunk // 2}: fewer logits at a time"
    if step.roles["student"].dtype.itemsize == 4:
        cost = "" if step.spec.lora else ", and less exact updates"
        yield f"student.dtype bfloat16: half the bytes of the parameters{cost}"
    roles = step.roles.items()
    wide = [name for name, role in roles if name in step.frozen and not role.int8]
    if wide:
        yield (
            f"{role_key(wide[0])}.dtype int8: half the bytes of the {wide[0]}; its "
            "drift is measured at the start"
        )
    if step.spec.lora is None:
        yield "lora.rank 16: only adapters have gradients and moments"
    yield "data.max_length: shorter rows"


def _of_a_kernel(step: AbstractStep) -> str:
    """Advise the change with which a kernel replaces the portable attention."""
    context = step.mesh.shape["context"]
    if context > 1 and platform(step.mesh) != "tpu":
        return "mesh.context 1: the attention kernels of GPUs need all tokens of a row"
    multiple = 128 if context == 1 else 256 * context
    return (
        f"data.max_length a multiple of {multiple} and train.attention auto: the "
        "portable attention holds all scores of a layer"
    )
