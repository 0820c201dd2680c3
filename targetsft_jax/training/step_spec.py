"""Mesh, dtypes and `StepSpec` of a configuration, shared by `train` and `plan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.checkpoints.stored_teacher import TEACHER, StoredTeacher
from targetsft_jax.config.roles import (
    INT8,
    live_roles,
    reads_teacher_rows,
    teacher_is_student,
    teacher_prompt,
)
from targetsft_jax.config.schema import Config, ConfigError, role_config
from targetsft_jax.data.teacher_cache import STATES, CacheHeader
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora, num_adapter_parameters
from targetsft_jax.models.sharded_attention import mesh_attend
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import vocabulary
from targetsft_jax.training.micro_batch import Numerics, StepSpec


def make_mesh(config: Config, devices: Any = None) -> Mesh:
    """Make the mesh of a configuration and check that it divides the batch.

    Args:
        config: configuration; only `mesh`, `train` and `data` are read.
        devices: devices of the mesh; None: `jax.devices()`.

    Raises:
        ConfigError: the axes do not fit the devices, or the mesh the batch or its rows.
    """
    axes = config.mesh
    try:
        mesh = meshes.make_mesh(
            axes.data, axes.fsdp, axes.tensor, devices, context=axes.context
        )
        if axes.vocab_group is not None:
            vocabulary.with_groups(mesh, axes.vocab_group)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    rows = config.train.batch_size // config.train.accumulation_steps
    shards = meshes.row_shards(mesh)
    if rows % shards:
        raise ConfigError(
            f"train.batch_size / train.accumulation_steps is {rows}; expected a "
            f"multiple of mesh.data x mesh.fsdp = {shards}, or more devices on "
            "mesh.context, which share rows"
        )
    parts = 2 * mesh.shape["context"]
    if mesh.shape["context"] > 1 and config.data.max_length % parts:
        raise ConfigError(
            f"data.max_length is {config.data.max_length:,}; expected a multiple of "
            f"2 x mesh.context = {parts}, since the devices of that axis share rows"
        )
    if mesh.shape["context"] > 1 and reads_teacher_rows(config):
        raise ConfigError(
            f"teacher.prompt is set and mesh.context is {mesh.shape['context']}; "
            "expected 1, since the teacher's rows are not shared by devices: put them "
            "on mesh.fsdp, or set teacher.cache"
        )
    return mesh


def row_length(role: str, config: Config) -> int:
    """Return the tokens per row that a role reads."""
    prompt = teacher_prompt(config, config.data)
    if prompt is not None and role.startswith(TEACHER):
        return prompt.max_length
    return config.data.max_length


def compute_dtype(config: Config, mesh: Mesh) -> Any:
    """Return the compute dtype: as configured, else by platform."""
    default = "float32" if meshes.platform(mesh) == "cpu" else "bfloat16"
    return jnp.dtype(config.train.dtype or default)


def param_dtype(role: str, config: Config, mesh: Mesh) -> Any:
    """Return the parameter dtype of a role: as configured, else by platform.

    Default: float32, or bfloat16 for frozen parameters on accelerators. A reference
    that is the base of adapters has the student's dtype. Of an int8 role, the dtype of
    the other parameters, which is the default.
    """
    dtype = None if is_int8(role, config) else role_config(config, role).dtype
    if config.lora is not None and _starts_as_student(role, config):
        dtype = dtype or config.student.dtype
    trained = role == "student" and config.lora is None
    frozen = not trained and meshes.platform(mesh) != "cpu"
    return jnp.dtype(dtype or ("bfloat16" if frozen else "float32"))


def is_int8(role: str, config: Config) -> bool:
    """Return whether the matrices of a role's layers are int8."""
    return role_config(config, role).dtype == INT8


def loss_chunk(config: Config, mesh: Mesh) -> int:
    """Return the tokens per chunk of the loss: as configured, else by platform."""
    return config.train.loss_chunk or (512 if meshes.platform(mesh) == "cpu" else 2048)


def stored_teacher(header: CacheHeader, folder: Path) -> StoredTeacher:
    """Return a stored teacher as the step reads it.

    Args:
        header: contents of its cache; folder: of the training data in it.
    """
    model = load_config(folder) if header.kind == STATES else None
    return StoredTeacher(header.kind, header.width, model)


def adapters(config: Config) -> Lora | None:
    """Return the adapters of a configuration, or None."""
    if config.lora is None:
        return None
    section = config.lora
    return Lora(section.rank, section.alpha, tuple(section.targets), section.dropout)


def step_spec(
    config: Config,
    architectures: Mapping[str, DecoderConfig],
    vocab_size: int,
    mesh: Mesh,
    stored: StoredTeacher | None = None,
) -> StepSpec:
    """Build the `StepSpec` of a configuration.

    Args:
        config: configuration of the run.
        architectures: role -> architecture, for the student and the frozen roles that
            the method reads.
        vocab_size: tokens of the tokenizer, shared by all roles.
        mesh: device mesh.
        stored: teacher of `teacher.cache`.

    Raises:
        ConfigError: the attention kernel does not support a model, or the adapters do
            not fit the student.
    """
    train, roles = config.train, live_roles(config)
    dtype = compute_dtype(config, mesh)
    on_cpu = meshes.platform(mesh) == "cpu"
    # Memory that a step touches costs a CPU more than a few sums of elements.
    default_remat = "dots" if on_cpu else "none"
    spec = StepSpec(
        student=architectures["student"],
        method=config.method,
        frozen={role: architectures[role] for role in roles},
        stored=stored,
        teachers=_mixture(config) if TEACHER in roles else None,
        teacher_rows=reads_teacher_rows(config),
        vocab_size=vocab_size,
        numerics=Numerics(
            dtype,
            train.remat or default_remat,
            train.attention,
            loss_chunk(config, mesh),
        ),
        lora=adapters(config),
        on_base=tuple(role for role in roles if _on_base(role, config, mesh)),
        vocab_group=config.mesh.vocab_group,
        router_aux_loss_coef=train.router_aux_loss_coef,
        histograms=True,
    )
    if spec.router_aux_loss_coef is not None and not spec.student.num_experts:
        raise ConfigError(
            f"train.router_aux_loss_coef is {spec.router_aux_loss_coef}, and the "
            f"student ({spec.student.model_type}) has no experts; expected null"
        )
    try:
        if spec.lora is not None:
            num_adapter_parameters(spec.student, spec.lora)
        for role, model in (("student", spec.student), *spec.frozen.items()):
            length = row_length(role, config)
            mesh_attend(train.attention, model, mesh, length, dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return spec


def _mixture(config: Config) -> tuple[tuple[float, ...], Any] | None:
    """Return weights and space of the mixture of several teachers."""
    if not config.teacher.others:
        return None
    weights = (config.teacher.weight, *(x.weight for x in config.teacher.others))
    return weights, config.teacher.mix


def _on_base(role: str, config: Config, mesh: Mesh) -> bool:
    """Return whether a frozen role is bit-identical to the base of the adapters."""
    return (
        config.lora is not None
        and _starts_as_student(role, config)
        and not is_int8(role, config)
        and param_dtype(role, config, mesh) == param_dtype("student", config, mesh)
    )


def _starts_as_student(role: str, config: Config) -> bool:
    if role == TEACHER:
        return teacher_is_student(config)
    section = role_config(config, role)
    return role == "reference" and not (section.path or section.build)
