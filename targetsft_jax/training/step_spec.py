"""From a configuration to the step that it asks for: `train` and `plan` share this."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.config.schema import (
    Config,
    ConfigError,
    frozen_roles,
    made_in_step,
)
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora, num_adapter_parameters
from targetsft_jax.models.sharded_attention import mesh_attend
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import vocabulary
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.inputs import SECOND_MODELS
from targetsft_jax.targets.policies import FROM_DATA, Policy, Snapshot, Trajectory
from targetsft_jax.training.step import StepSpec


def make_mesh(config: Config, devices: Any = None) -> Mesh:
    """The mesh of a configuration, whose batch divides over it.

    Args:
        config: its mesh and train sections are read.
        devices: all of jax's unless given.

    Raises:
        ConfigError: naming the key that does not fit.
    """
    asked = config.mesh
    try:
        mesh = meshes.make_mesh(asked.data, asked.fsdp, asked.tensor, devices)
        if asked.vocab_group is not None:
            vocabulary.with_groups(mesh, asked.vocab_group)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    rows = config.train.batch_size // config.train.accumulation_steps
    groups = meshes.row_shards(mesh)
    if rows % groups:
        raise ConfigError(
            f"train.batch_size / train.accumulation_steps is {rows} rows, which "
            f"mesh.data x mesh.fsdp = {groups} does not divide; expected a multiple"
        )
    return mesh


def compute_dtype(config: Config, mesh: Mesh) -> Any:
    """Of the forward passes: as configured, or by platform."""
    usual = "float32" if meshes.platform(mesh) == "cpu" else "bfloat16"
    return jnp.dtype(config.train.dtype or usual)


def param_dtype(name: str, config: Config, mesh: Mesh) -> Any:
    """Of a role's parameters: float32, but bfloat16 for frozen ones on accelerators.

    A reference that is the start of an adapted student has the student's.
    """
    given = getattr(config, name).dtype
    if config.lora is not None and _starts_as_student(name, config):
        given = given or config.student.dtype
    trained = name == "student" and config.lora is None
    frozen = not trained and meshes.platform(mesh) != "cpu"
    return jnp.dtype(given or ("bfloat16" if frozen else "float32"))


def adapters(config: Config) -> Lora | None:
    """The adapters that a configuration trains, if it does."""
    asked = config.lora
    if asked is None:
        return None
    return Lora(asked.rank, asked.alpha, tuple(asked.targets))


def step_spec(
    config: Config,
    method: str,
    hyper: Mapping[str, Any],
    architectures: Mapping[str, DecoderConfig],
    vocab_size: int,
    mesh: Mesh,
) -> StepSpec:
    """All that is static in the step of one method.

    Args:
        config: the run's configuration.
        method, hyper: one of its trainings.
        architectures: of the student and of the frozen roles that the method reads.
        vocab_size: real tokens, shared by all roles.
        mesh: the device mesh.

    Raises:
        ConfigError: the attention kernel cannot serve these models, or the student
            cannot have these adapters.
    """
    roles = frozen_roles(config, method, hyper)
    train = config.train
    dtype = compute_dtype(config, mesh)
    spec = StepSpec(
        student=architectures["student"],
        frozen={role: architectures[role] for role in roles},
        method=method,
        hyper=hyper,
        columns=columns(config, method, hyper),
        vocab_size=vocab_size,
        dtype=dtype,
        remat=train.remat,
        attention=train.attention,
        loss_chunk=train.loss_chunk
        or (512 if meshes.platform(mesh) == "cpu" else 2048),
        vocab_group=config.mesh.vocab_group,
        lora=adapters(config),
        histograms=True,
        on_base=tuple(role for role in roles if _on_base(role, config, mesh)),
        policy=policy(config, method, hyper),
    )
    if spec.lora is not None:
        try:
            num_adapter_parameters(spec.student, spec.lora)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    for model in (spec.student, *spec.frozen.values()):
        try:
            mesh_attend(train.attention, model, mesh, config.data.max_length, dtype)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return spec


def _on_base(name: str, config: Config, mesh: Mesh) -> bool:
    """Whether a frozen role is the base of the student's adapters, to the bit."""
    return (
        config.lora is not None
        and _starts_as_student(name, config)
        and param_dtype(name, config, mesh) == param_dtype("student", config, mesh)
    )


def _starts_as_student(name: str, config: Config) -> bool:
    role = getattr(config, name)
    return name == "reference" and not (role.path or role.build)


def policy(config: Config, method: str, hyper: Mapping[str, Any]) -> Policy:
    """What makes a method's per-token inputs in the step, where something does."""
    asked, made = config.policy, made_in_step(config, method, hyper)
    if "old_logprob" in made:
        return Snapshot(asked.refresh_every)
    if "trajectory_weight" in made:
        return Trajectory(
            average=asked.trajectory_weight == "ema",
            decay=asked.ema_decay,
            mode=asked.mode,
            temperature=asked.temperature,
            clip=tuple(asked.clip),
        )
    return FROM_DATA


def columns(config: Config, method: str, hyper: Mapping[str, Any]) -> tuple[str, ...]:
    """The per-token inputs of a method that come with the data."""
    made = (*SECOND_MODELS, *made_in_step(config, method, hyper))
    return tuple(key for key in get_method(method).inputs(**hyper) if key not in made)
