"""Lower the train step of a configuration from shapes, without weights or data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.checkpoints.stored_teacher import (
    TEACHER,
    StoredTeacher,
    abstract_head,
)
from targetsft_jax.config.data_checks import check_positions
from targetsft_jax.config.roles import live_roles
from targetsft_jax.config.schema import Config, role_config
from targetsft_jax.data.teacher_cache import PREFIX, CacheHeader
from targetsft_jax.data.teacher_rows import INDEX, ROWS
from targetsft_jax.data.tokenizer import load_tokenizer
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.int8 import int8_axes, int8_shapes
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules
from targetsft_jax.planning.planned_teacher import DEFAULT, Store, planned_teacher
from targetsft_jax.training.micro_batch import BASE, StepSpec
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import (
    TrainState,
    abstract_state,
    state_shardings,
    with_shardings,
)
from targetsft_jax.training.step import make_train_step
from targetsft_jax.training.step_spec import (
    is_int8,
    param_dtype,
    row_length,
    step_spec,
)
from targetsft_jax.training.tiny_models import architecture

# Length of the learning-rate schedule if `train.steps` is null. The program does not
# depend on it.
SCHEDULE_STEPS = 1000


@dataclass(frozen=True)
class AbstractRole:
    """A model without weights.

    Attributes:
        config: architecture.
        dtype: dtype of the parameters.
        origin: source of the architecture, for the report.
        folder: folder of config and tokenizer; None for a built model.
        int8: True if the matrices of its layers are int8, and the rest in `dtype`.
    """

    config: DecoderConfig
    dtype: Any
    origin: str
    folder: Path | None = None
    int8: bool = False


@dataclass(frozen=True)
class AbstractStep:
    """A lowered train step with the shapes of its arguments.

    Attributes:
        spec: static configuration of the step.
        roles: name -> model of the step, the student first.
        vocabulary_origin: source of the vocabulary size, for the report.
        state, frozen, batch: arguments, as shapes with shardings.
        mesh: device mesh.
        lowered: program before compilation (`jax.stages.Lowered`); None: not traced.
    """

    spec: StepSpec
    roles: Mapping[str, AbstractRole]
    vocabulary_origin: str
    state: TrainState
    frozen: Mapping[str, Any]
    batch: Mapping[str, Any]
    mesh: Mesh
    lowered: Any = None

    def row_length(self, role: str) -> int:
        """Tokens per row that a role reads."""
        has_rows = self.spec.teacher_rows and role.startswith(TEACHER)
        length: int = self.batch[ROWS["tokens"] if has_rows else "tokens"].shape[-1]
        return length

    @property
    def kernel(self) -> str:
        """Attention kernel of the student."""
        return choose(
            self.spec.numerics.attention,
            meshes.platform(self.mesh),
            self.spec.student,
            self.batch["tokens"].shape[-1],
            self.spec.numerics.dtype,
            self.mesh.shape["context"],
        )


def abstract_step(config: Config, mesh: Mesh, store: Store = DEFAULT) -> AbstractStep:
    """Trace and lower the train step of a configuration.

    Args:
        config: configuration of the run.
        mesh: device mesh, possibly of absent devices.
        store: contents of a teacher cache that is yet to be made.

    Raises:
        ConfigError: a key does not fit the models or the mesh.
        ValueError, OSError: a model folder cannot be used.
    """
    step = untraced_step(config, mesh, store)
    steps = step.spec.steps or SCHEDULE_STEPS
    optimizer = make_optimizer(config.train, steps)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, step.state)
    train_step: Any = make_train_step(step.spec, optimizer, mesh, shardings)
    return replace(step, lowered=train_step.lower(step.state, step.frozen, step.batch))


def untraced_step(config: Config, mesh: Mesh, store: Store = DEFAULT) -> AbstractStep:
    """Return the train step of a configuration as shapes, without a program.

    Args:
        config, mesh, store: see `abstract_step`.

    Raises:
        ConfigError, ValueError, OSError: as `abstract_step`.
    """
    roles = _roles(config, mesh)
    vocab_size, vocabulary_origin = _vocabulary(roles)
    architectures = {name: role.config for name, role in roles.items()}
    check_positions(config, architectures)
    steps = config.train.steps or SCHEDULE_STEPS
    cache, stored = planned_teacher(config, store) or (None, None)
    spec = step_spec(config, architectures, vocab_size, mesh, stored)
    spec = replace(spec, steps=steps)
    optimizer = make_optimizer(config.train, steps)
    params = _abstract_trained(spec, roles["student"])
    policy = spec.method.policy
    shardings = state_shardings(
        spec.student, params, optimizer, mesh, spec.lora, policy
    )
    state = abstract_state(params, optimizer, shardings, policy)
    frozen = {
        name: _head_alone(config, stored, mesh)
        if name == TEACHER and stored is not None and stored.config is not None
        else _frozen_params(roles["student" if name == BASE else name], mesh)
        for name in spec.frozen_arguments
    }
    batch = _abstract_batch(config, spec, mesh, cache)
    return AbstractStep(spec, roles, vocabulary_origin, state, frozen, batch, mesh)


def bytes_per_device(tree: Any) -> int:
    """Return the bytes per device of a tree of shapes with shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _roles(config: Config, mesh: Mesh) -> dict[str, AbstractRole]:
    """Open the student and the frozen roles of the method, without weights."""
    roles: dict[str, AbstractRole] = {}
    for name in ("student", *live_roles(config)):
        role = role_config(config, name)
        if role.build:
            model, origin, folder = architecture(role.build), f"{name}.build", None
        elif role.path:
            stored = open_model(role.path, weights=False)
            model, origin, folder = stored.config, str(role.path), stored.folder
        else:
            # A reference, or a teacher with a prompt: the initial student.
            student = roles["student"]
            model, origin = student.config, "the initial student"
            folder = student.folder
        dtype, int8 = param_dtype(name, config, mesh), is_int8(name, config)
        roles[name] = AbstractRole(model, dtype, origin, folder, int8)
    return roles


def _vocabulary(roles: Mapping[str, AbstractRole]) -> tuple[int, str]:
    """Return the vocabulary size and its source.

    The length of the student's tokenizer if it has one, else the smallest embedding.
    """
    folder = roles["student"].folder
    smallest = min(role.config.vocab_size for role in roles.values())
    if folder is None:
        return smallest, "the built models' tokenizer"
    if (folder / "tokenizer.json").is_file():
        return len(load_tokenizer(folder)), "the student's tokenizer"
    return smallest, "the smallest vocab_size, since there is no tokenizer"


def _abstract_trained(spec: StepSpec, student: AbstractRole) -> Any:
    """Return the shapes of the trained parameters: the student or its adapters."""
    if spec.lora is None:
        return decoder.abstract_params(student.config, student.dtype)
    adapters = spec.lora
    return jax.eval_shape(
        lambda: lora.init_adapters(student.config, adapters, jax.random.key(0))
    )


def _frozen_params(role: AbstractRole, mesh: Mesh) -> Any:
    shapes = decoder.abstract_params(role.config, role.dtype)
    axes = decoder.logical_axes(role.config)
    if role.int8:
        shapes, axes = int8_shapes(shapes), int8_axes(axes)
    return with_shardings(shapes, rules.shardings(axes, shapes, mesh))


def _head_alone(config: Config, stored: StoredTeacher, mesh: Mesh) -> Any:
    """Return the shape of the head of a teacher of stored hidden states."""
    assert stored.config is not None
    shape = (stored.config.vocab_size, stored.config.hidden_size)
    return abstract_head(shape, mesh, param_dtype(TEACHER, config, mesh))


def _abstract_batch(
    config: Config, spec: StepSpec, mesh: Mesh, cache: CacheHeader | None
) -> dict[str, Any]:
    """Return the shapes of a batch of the data pipeline, [A, B, L, …]."""
    train = config.train
    rows = train.batch_size // train.accumulation_steps
    shape = (train.accumulation_steps, rows, config.data.max_length)
    sharding = meshes.tokens_over(mesh, lead=1)
    dtypes: dict[str, Any] = {
        "tokens": jnp.int32,
        "labels": jnp.int32,
        "loss_mask": jnp.bool_,
        "segment_ids": jnp.int32,
        "positions": jnp.int32,
    }
    dtypes |= {name: jnp.float32 for name in spec.method.columns}
    if spec.teacher_rows:
        dtypes[INDEX] = jnp.int32
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }
    for name in ROWS.values() if spec.teacher_rows else ():
        theirs = (*shape[:2], row_length(TEACHER, config))
        batch[name] = jax.ShapeDtypeStruct(theirs, jnp.int32, sharding=sharding)
    for name, column in (cache.columns if cache else {}).items():
        assert cache is not None
        batch[PREFIX + name] = jax.ShapeDtypeStruct(
            (*shape, *cache.entry_shape(name)), column.dtype, sharding=sharding
        )
    return batch
