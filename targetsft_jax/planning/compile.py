"""Compile a configuration's own training step for devices that need not be here."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.data.tokenizer import load_tokenizer
from targetsft_jax.hf.importer import load_config, resolve
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules
from targetsft_jax.training.config import (
    Config,
    ConfigError,
    RoleConfig,
    roles_needed,
    trainings,
)
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.roles import abstract_params
from targetsft_jax.training.spec import make_mesh, param_dtype, step_spec
from targetsft_jax.training.start_models import architecture
from targetsft_jax.training.step import (
    StepSpec,
    TrainState,
    make_train_step,
    state_shardings,
)


class DoesNotFit(Exception):
    """The compiler found no way to hold the program; its message says what is large."""


@dataclass(frozen=True)
class Compiled:
    """A compiled step and what it was compiled from.

    Attributes:
        spec, mesh: of the step; shape: [A, B, L] of its batch.
        seconds: that the compiler took.
        text: the compiled program.
        memory: its memory on one device, as jax gives it.
        vocabulary: where the number of real tokens comes from.
    """

    spec: StepSpec
    mesh: Mesh
    shape: tuple[int, int, int]
    seconds: float
    text: str
    memory: Any
    vocabulary: str


def devices_of(topology: str) -> Any:
    """The devices of `cpu:N` or of a TPU topology such as `v5e:4x4`.

    Raises:
        ConfigError: a name that is none, or no libtpu to compile with.
    """
    kind, _, size = topology.partition(":")
    if kind == "cpu":
        if not size.isdigit() or len(jax.devices("cpu")) < int(size):
            raise ConfigError(f"topology is {topology!r}; expected cpu:N")
        return jax.devices("cpu")[: int(size)]
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"topology {topology!r} needs the TPU compiler, which is not installed: "
            'pip install "targetsft-jax[tpu]". Without it there is cpu:N'
        ) from None
    from jax.experimental import topologies

    alone = size in ("1x1", "1x1x1")
    options = {"chips_per_host_bounds": [1, 1, 1]} if alone else {}
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except Exception as error:
        raise ConfigError(
            f"topology is {topology!r}, which the TPU compiler does not know "
            f"({str(error).splitlines()[0]}); expected a name such as v5e:4x4"
        ) from None


def before_jax(topology: str) -> None:
    """What has to be said before jax looks for devices: it must not look for a TPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not topology.startswith("cpu"):
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        # Only to keep libtpu from asking who it is, and printing that nobody knows.
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_WORKER_ID", "0")


def compile_step(config: Config, devices: Any) -> Compiled:
    """The step of the configuration's target, compiled and not run.

    Weights and data are not read: of each model only its config.json.

    Raises:
        ConfigError, OSError, ValueError: as a training run would, naming the key.
        DoesNotFit: it needs more memory than a device has.
    """
    mesh = make_mesh(config, devices)
    models = {
        name: _architecture(name, config) for name in ("student", *roles_needed(config))
    }
    size, source = _vocabulary(config, models)
    method, hyper = list(trainings(config).items())[-1]
    spec = step_spec(config, method, hyper, models, size, mesh)
    optimizer = make_optimizer(config.train, config.train.steps or 1000)
    params = abstract_params(
        spec.student, param_dtype("student", config.student.dtype, mesh)
    )
    places = state_shardings(spec.student, params, optimizer, mesh)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=places.step),
        _placed(params, places.params),
        _placed(jax.eval_shape(optimizer.init, params), places.optimizer),
    )
    frozen = {}
    for role, model in spec.frozen.items():
        dtype = param_dtype(role, getattr(config, role).dtype, mesh)
        shapes = abstract_params(model, dtype)
        where = rules.shardings(decoder.logical_axes(model), shapes, mesh)
        frozen[role] = _placed(shapes, where)
    train = config.train
    rows = train.batch_size // train.micro_batches
    shape = (train.micro_batches, rows, config.data.max_length)
    step = make_train_step(spec, optimizer, mesh, places)
    lowered = step.lower(state, frozen, _batch(spec, mesh, shape))
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFit(str(error)) from None
        raise
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    return Compiled(spec, mesh, shape, seconds, compiled.as_text(), memory, source)


def _architecture(name: str, config: Config) -> DecoderConfig:
    given: RoleConfig = getattr(config, name)
    if given.build:
        return architecture(given.build)
    if given.path is None:
        return _architecture("student", config)
    return load_config(_folder(given.path))


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    return folder if (folder / "config.json").is_file() else resolve(path)


def _vocabulary(config: Config, models: dict[str, DecoderConfig]) -> tuple[int, str]:
    """Real tokens: the tokenizer's, else as many as the shortest embedding has."""
    rows = min(model.vocab_size for model in models.values())
    if config.student.path is None:
        return rows, "the byte tokenizer"
    folder = _folder(config.student.path)
    if any(folder.glob("tokenizer*")):
        return len(load_tokenizer(folder)), "the tokenizer"
    return rows, "the shortest embedding (the folder has no tokenizer)"


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        places,
    )


def _batch(spec: StepSpec, mesh: Mesh, shape: tuple[int, int, int]) -> dict[str, Any]:
    dtypes = {
        "tokens": jnp.int32,
        "labels": jnp.int32,
        "loss_mask": jnp.bool_,
        "segment_ids": jnp.int32,
        "positions": jnp.int32,
        **dict.fromkeys(spec.columns, jnp.float32),
    }
    place = meshes.rows_over(mesh, lead=1)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for name, dtype in dtypes.items()
    }
