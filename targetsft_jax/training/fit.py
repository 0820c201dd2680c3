"""The loop: restore, then for each batch step, log and save."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from targetsft_jax.data.pipeline import Dataset, iterate
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.training.checkpoint import Checkpoints, Position
from targetsft_jax.training.config import LogConfig, TrainConfig
from targetsft_jax.training.log import RunLog
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.preemption import Preempted, StopSignal
from targetsft_jax.training.profile import Profile
from targetsft_jax.training.sinks import make_sinks
from targetsft_jax.training.step import (
    StepSpec,
    TrainState,
    init_state,
    make_train_step,
    state_shardings,
)
from targetsft_jax.training.validate import Validation, make_measure, validate


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
    validation: Validation | None = None,
    log: LogConfig | None = None,
    began: float | None = None,
    about: Mapping[str, Any] | None = None,
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
        validation: held-out rows to measure on the way.
        log: what is written down, and a profile if one is asked for.
        began: `time.perf_counter()` when the work for this training began.
        about: what it was asked for, shown beside its numbers.

    Raises:
        ValueError: the checkpoint was taken on other data, none is whole, or too many
            steps in a row were not finite.
        Preempted: SIGTERM came; the last step is saved.
    """
    steps = total_steps(config, dataset)
    optimizer = make_optimizer(config, steps)
    places = state_shardings(
        spec.student, params, optimizer, mesh, spec.lora, spec.policy
    )
    state = init_state(params, optimizer, places, spec.policy)
    checkpoints = Checkpoints(run_dir, keep=config.keep_checkpoints)
    position = Position(0, seed, config.batch_size, dataset.fingerprint)
    start = 0
    if resume and checkpoints.latest is not None:
        state, start = checkpoints.restore(state, position)
    log = log or LogConfig()
    written = RunLog(
        run_dir,
        steps=steps,
        start=start,
        every=config.log_every,
        sinks=make_sinks(log, run_dir, start, about or {}),
        began=began,
    )
    clock = written.clock
    profile = Profile(run_dir, log.profile_from, log.profile_steps)
    step_fn = make_train_step(spec, optimizer, mesh, places)
    measure = make_measure(spec, mesh)
    rows = config.batch_size // config.micro_batches
    batches = placed_ahead(
        iterate(
            dataset,
            start,
            batch_size=rows,
            accumulation=config.micro_batches,
            seed=seed,
        ),
        mesh,
    )
    skipped = 0

    def record(number: int, metrics: Any, **more: float) -> None:
        nonlocal skipped
        numbers = jax.device_get(metrics)
        written.write(number, numbers | more)
        skipped = skipped + 1 if numbers["skipped"] else 0
        if skipped == config.max_skipped_steps:
            raise ValueError(_diverged(number, skipped))

    def measured(number: int) -> dict[str, float]:
        if validation is None or (number % validation.every and number != steps):
            return {}
        # The step itself first, or its time would be taken for the measurement's.
        jax.block_until_ready(state.step)
        with clock.lost_to("validation"):
            return validate(measure, state, frozen, validation.dataset, mesh, rows)

    # A step's metrics are fetched when the next step is already under way, so that the
    # devices never wait for the host. A checkpoint comes after its step's line: a run
    # that goes on from it has every line before it.
    waiting: tuple[int, Any] | None = None
    try:
        with StopSignal() as stop:
            for number in range(start + 1, steps + 1):
                with clock.lost_to("data"):
                    batch = next(batches)
                profile.before(number)
                with clock.lost_to("compile") if number == start + 1 else nullcontext():
                    state, metrics = step_fn(state, frozen, batch)
                if waiting is not None:
                    record(*waiting)
                waiting = (number, metrics)
                if (folder := profile.after(number, metrics)) is not None:
                    written.say(f"profile of {log.profile_steps} steps in {folder}")
                told = stop.noted(number)
                due = number % config.save_every == 0 or number == steps or told
                found = measured(number)
                if due or found:
                    record(number, metrics, **found)
                    waiting = None
                if due:
                    at = Position(number, seed, config.batch_size, dataset.fingerprint)
                    with clock.lost_to("save"):
                        checkpoints.save(state, at)
                if told and number < steps:
                    raise Preempted(number)
    finally:
        profile.close()
        with clock.lost_to("save"):
            checkpoints.close()
        written.close()
    return Fitted(state, start)


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


def placed_ahead(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Batches on the mesh, each on its way there a step before it is asked for.

    The next one is put while the devices are at work on the step before.
    """
    following = put(next(batches), mesh)
    while True:
        batch, following = following, put(next(batches), mesh)
        yield batch


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of [A, B, L] arrays on the mesh; each device gets only its rows."""
    place = meshes.rows_over(mesh, lead=1)
    return {
        name: jax.make_array_from_callback(x.shape, place, lambda part, x=x: x[part])
        for name, x in batch.items()
    }
