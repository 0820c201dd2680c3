"""The training step of a configuration, from shapes alone: no weights, no data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.schema import (
    Config,
    RoleConfig,
    frozen_roles,
    trainings,
)
from targetsft_jax.data.tokenizer import load_tokenizer
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.step import (
    BASE,
    StepSpec,
    TrainState,
    make_train_step,
    state_shardings,
)
from targetsft_jax.training.step_spec import param_dtype, step_spec
from targetsft_jax.training.tiny_models import architecture

# A schedule's length is data to the program, so that any will do.
STEPS = 1000


@dataclass(frozen=True)
class AbstractRole:
    """A model by its shapes.

    Attributes:
        config: its architecture.
        dtype: of its parameters.
        origin: where the architecture is from.
    """

    config: DecoderConfig
    dtype: Any
    origin: str


@dataclass(frozen=True)
class AbstractStep:
    """A step that can be lowered.

    Attributes:
        spec: what is static in it.
        roles: the models that it reads, the student first.
        vocabulary_from: where the number of tokens is from.
        state, frozen, batch: its arguments, as shapes with their places.
        mesh: the devices.
        lowered: the program before XLA has compiled it.
    """

    spec: StepSpec
    roles: Mapping[str, AbstractRole]
    vocabulary_from: str
    state: TrainState
    frozen: Mapping[str, Any]
    batch: Mapping[str, Any]
    mesh: Mesh
    lowered: Any


def abstract_step(config: Config, mesh: Mesh) -> AbstractStep:
    """The step of a configuration's target method, traced and lowered.

    Raises:
        ConfigError, ValueError, OSError: naming what cannot be used.
    """
    method = config.target.name
    hyper = trainings(config)[method]
    roles, folders = _roles(config, frozen_roles(config, method, hyper), mesh)
    vocabulary, origin = _vocabulary(roles, folders)
    spec = step_spec(
        config,
        method,
        hyper,
        {name: role.config for name, role in roles.items()},
        vocabulary,
        mesh,
    )
    optimizer = make_optimizer(config.train, config.train.steps or STEPS)
    student = roles["student"]
    if spec.lora is None:
        params = decoder.abstract_params(student.config, student.dtype)
    else:
        params = _abstract_adapters(student.config, spec.lora)
    places = state_shardings(
        student.config, params, optimizer, mesh, spec.lora, spec.policy
    )
    state = TrainState(
        _placed(jax.ShapeDtypeStruct((), jnp.int32), places.step),
        _placed(params, places.params),
        _placed(jax.eval_shape(optimizer.init, params), places.optimizer),
        _placed(jax.eval_shape(spec.policy.start, params), places.held),
    )
    frozen = {
        name: _on_mesh(roles["student" if name == BASE else name], mesh)
        for name in spec.frozen_arguments
    }
    batch = _batch(config, spec, mesh)
    step = make_train_step(spec, optimizer, mesh, places)
    lowered = step.lower(state, frozen, batch)
    return AbstractStep(spec, roles, origin, state, frozen, batch, mesh, lowered)


def bytes_per_device(tree: Any) -> int:
    """What a device holds of a tree of placed shapes."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _roles(
    config: Config, names: tuple[str, ...], mesh: Mesh
) -> tuple[dict[str, AbstractRole], dict[str, Path | None]]:
    """The student and the frozen models of these names."""
    roles: dict[str, AbstractRole] = {}
    folders: dict[str, Path | None] = {}
    for name in ("student", *names):
        given: RoleConfig = getattr(config, name)
        dtype = param_dtype(name, config, mesh)
        if given.build:
            shape, origin, folder = architecture(given.build), f"{name}.build", None
        elif given.path:
            model = open_model(given.path, weights=False)
            shape, origin, folder = model.config, str(given.path), model.folder
        else:
            # Only a reference may have no path: it is the student at its start.
            shape, origin = roles["student"].config, "the student at its start"
            folder = folders["student"]
        roles[name] = AbstractRole(shape, dtype, origin)
        folders[name] = folder
    return roles, folders


def _vocabulary(
    roles: Mapping[str, AbstractRole], folders: Mapping[str, Path | None]
) -> tuple[int, str]:
    """Real tokens: the tokenizer's where there is one, else the smallest head's."""
    folder = folders["student"]
    smallest = min(role.config.vocab_size for role in roles.values())
    if folder is not None and (folder / "tokenizer.json").is_file():
        return len(load_tokenizer(folder)), "the student's tokenizer"
    if folder is None:
        return smallest, "the built models' tokenizer"
    return smallest, "the smallest vocab_size, there being no tokenizer"


def _abstract_adapters(config: DecoderConfig, adapted: lora.Lora) -> Any:
    return jax.eval_shape(
        lambda: lora.init_adapters(config, adapted, jax.random.key(0))
    )


def _on_mesh(role: AbstractRole, mesh: Mesh) -> Any:
    shapes = decoder.abstract_params(role.config, role.dtype)
    places = rules.shardings(decoder.logical_axes(role.config), shapes, mesh)
    return _placed(shapes, places)


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=place
        ),
        shapes,
        places,
    )


def _batch(config: Config, spec: StepSpec, mesh: Mesh) -> dict[str, Any]:
    """The arrays [A, B, L] that the pipeline would give."""
    train = config.train
    rows = train.batch_size // train.accumulation_steps
    shape = (train.accumulation_steps, rows, config.data.max_length)
    place = meshes.rows_over(mesh, lead=1)
    dtypes: dict[str, Any] = {
        "tokens": jnp.int32,
        "labels": jnp.int32,
        "loss_mask": jnp.bool_,
        "segment_ids": jnp.int32,
        "positions": jnp.int32,
    }
    dtypes |= {name: jnp.float32 for name in spec.columns}
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, dtype in dtypes.items()
    }
