"""The loop: restore, then for each batch step, log and save."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from targetsft_jax.data.pipeline import Dataset, iterate
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.training.checkpoint import Checkpoints, Position
from targetsft_jax.training.config import TrainConfig
from targetsft_jax.training.log import RunLog
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.preemption import Preempted, StopSignal
from targetsft_jax.training.provenance import Provenance, identity
from targetsft_jax.training.retention import Retention, SaveTimer
from targetsft_jax.training.step import (
    StepSpec,
    TrainState,
    init_state,
    make_train_step,
    state_shardings,
)
from targetsft_jax.training.wishes import Wishes


@dataclass(frozen=True)
class Fitted:
    """A finished training: the state, and the step that it went on from."""

    state: TrainState
    resumed_from: int


def fit(
    spec: StepSpec,
    params: Any,
    frozen: Mapping[str, Any],
    dataset: Dataset,
    mesh: Mesh,
    config: TrainConfig,
    *,
    run_dir: Path,
    seed: int,
    resume: bool = True,
    config_text: str = "",
) -> Fitted:
    """Train to the last step, from the newest checkpoint where there is one.

    Args:
        spec: what is static in a step.
        params: the student's start, or its adapters', on the mesh; consumed.
        frozen: what `spec.frozen_arguments` names.
        dataset: packed rows.
        mesh: the device mesh.
        config: optimizer, steps, cadence.
        run_dir: for checkpoints and metrics.
        seed: of the order of batches.
        resume: read the newest checkpoint of `run_dir`.
        config_text: the run's configuration, to be kept with checkpoints.

    Raises:
        ValueError: the checkpoint was taken on other data or with other frozen models,
            none is whole, or too many steps in a row were not finite.
        Preempted: SIGTERM came; the last step is saved.
    """
    steps = total_steps(config, dataset)
    optimizer = make_optimizer(config, steps)
    places = state_shardings(spec.student, params, optimizer, mesh, spec.lora)
    _prove_same_data(dataset)
    checkpoints = Checkpoints(
        run_dir,
        Retention(config.keep_checkpoints, config.keep_every, config.keep_best),
        Provenance(config_text, {role: identity(p) for role, p in frozen.items()}),
    )
    position = Position(0, seed, config.batch_size, dataset.fingerprint)
    start = 0
    if resume and checkpoints.latest is not None:
        like = _abstract_state(params, optimizer, places)
        # Two states at a time may be more than the devices hold.
        jax.tree.map(lambda x: x.delete(), params)
        state, start = checkpoints.restore(like, position)
    else:
        state = init_state(params, optimizer, places)
    log = None
    if processes.first():
        log = RunLog(run_dir, steps=steps, start=start, every=config.log_every)
    step_fn = make_train_step(spec, optimizer, mesh, places)
    batches = iterate(
        dataset,
        start,
        batch_size=config.batch_size // config.micro_batches,
        accumulation=config.micro_batches,
        seed=seed,
    )
    skipped = 0

    def record(number: int, metrics: Any) -> Mapping[str, Any]:
        nonlocal skipped
        numbers = jax.device_get(metrics)
        if log is not None:
            log.write(number, numbers)
        skipped = skipped + 1 if numbers["skipped"] else 0
        if skipped == config.max_skipped_steps:
            raise ValueError(_diverged(number, skipped))
        return numbers

    # A step's metrics are fetched when the next step is already under way, so that the
    # devices never wait for the host. A checkpoint comes after its step's line: a run
    # that goes on from it has every line before it.
    waiting: tuple[int, Any] | None = None
    wishes, timer = Wishes(mesh), SaveTimer(config.save_minutes)
    try:
        with StopSignal() as stop:
            for number in range(start + 1, steps + 1):
                state, metrics = step_fn(state, frozen, put(next(batches), mesh))
                if waiting is not None:
                    record(*waiting)
                waiting = (number, metrics)
                # By one clock, that of the first process.
                due = processes.first() and timer.due()
                told, due = wishes.shared([stop.noted, due])
                if number % config.save_every == 0 or number == steps or told or due:
                    numbers = record(number, metrics)
                    waiting = None
                    checkpoints.save(state, replace(position, step=number), numbers)
                    timer.restart()
                if told and number < steps:
                    raise Preempted(number)
    finally:
        checkpoints.close()
        if log is not None:
            log.close()
    return Fitted(state, start)


def _prove_same_data(dataset: Dataset) -> None:
    """ValueError where a process has read other rows than the first one."""
    found = processes.said(dataset.fingerprint)
    other = [str(n) for n, fingerprint in enumerate(found) if fingerprint != found[0]]
    if other:
        raise ValueError(
            f"process {', '.join(other)} of {len(found)} packed other rows than "
            "process 0; expected the same data and tokenizer files on every host. "
            "Look whether data.path is the same file everywhere"
        )


def _abstract_state(
    params: Any, optimizer: optax.GradientTransformation, places: TrainState
) -> TrainState:
    """Shapes, dtypes and places of the state that `init_state` would make."""
    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = TrainState(step, params, jax.eval_shape(optimizer.init, params))
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        places,
    )


def _diverged(number: int, skipped: int) -> str:
    return (
        f"loss or gradient were not finite in {skipped} steps in a row, "
        f"{number - skipped + 1} to {number}, which changed nothing; see metrics.jsonl "
        "for the steps before. Lower train.learning_rate or train.clip_norm, look at "
        "the data of these steps, or raise train.max_skipped_steps"
    )


def total_steps(config: TrainConfig, dataset: Dataset) -> int:
    """Optimizer steps of a run: as configured, or from its epochs, at least one."""
    if config.steps is not None:
        return config.steps
    return max(1, round(config.epochs * dataset.rows / config.batch_size))


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of [A, B, L] arrays on the mesh; each device gets only its rows."""
    place = meshes.rows_over(mesh, lead=1)
    return {
        name: jax.make_array_from_callback(x.shape, place, lambda part, x=x: x[part])
        for name, x in batch.items()
    }
