"""The loop: restore, then for each batch step, log and save."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.manager import Checkpoints, Position
from targetsft_jax.checkpoints.provenance import Provenance, identity
from targetsft_jax.checkpoints.retention import Retention, SaveTimer
from targetsft_jax.config.schema import LogConfig, TrainConfig
from targetsft_jax.data.pipeline import Dataset, iterate
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.storage import disk_full as disk
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.policies import Policy
from targetsft_jax.telemetry.anomalies import FILE as SKIPPED_FILE
from targetsft_jax.telemetry.anomalies import Watch, records_of
from targetsft_jax.telemetry.log import NoLog, RunLog
from targetsft_jax.telemetry.profiler import Profile
from targetsft_jax.telemetry.sinks import make_sinks
from targetsft_jax.training.agreement import Wishes
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.preemption import Preempted, StopSignal
from targetsft_jax.training.step import (
    StepSpec,
    TrainState,
    arrays_of,
    init_state,
    make_train_step,
    state_of,
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
        about: what it was asked for, kept with its numbers and checkpoints.

    Raises:
        ValueError: the checkpoint was taken on other data or with other frozen models,
            none is whole, or too many steps in a row were not finite.
        Preempted: SIGTERM came; the last step is saved.
    """
    steps = total_steps(config, dataset)
    optimizer = make_optimizer(config, steps)
    places = state_shardings(
        spec.student, params, optimizer, mesh, spec.lora, spec.policy
    )
    _prove_same_data(dataset)
    retention = Retention(config.max_to_keep, config.keep_every, config.keep_best)
    checkpoints = Checkpoints(
        RunDir(run_dir),
        retention,
        Provenance(about or {}, {role: identity(p) for role, p in frozen.items()}),
    )
    position = Position(0, seed, config.batch_size, dataset.fingerprint)
    start = 0
    if resume and checkpoints.latest is not None:
        like = _abstract_state(params, optimizer, places, spec.policy)
        # Two states at a time may be more than the devices hold.
        for leaf in jax.tree.leaves(params):
            if isinstance(leaf, jax.Array):
                leaf.delete()
        arrays, start = checkpoints.restore(arrays_of(like), position)
        state = state_of(arrays)
    else:
        state = init_state(params, optimizer, places, spec.policy)
    log = log or LogConfig()
    written = _open_log(run_dir, steps, start, config.log_every, log, about, began)
    clock = written.clock
    watch = None
    if processes.is_primary():
        taken = partial(records_of, dataset, config, seed)
        watch = Watch(run_dir, start, config, records=taken, say=written.say)
    profiled = log.profile_from if processes.is_primary() else None
    profile = Profile(run_dir, profiled, log.profile_steps)
    step_fn = make_train_step(spec, optimizer, mesh, places)
    measure = make_measure(spec, mesh)
    rows = config.batch_size // config.accumulation_steps
    batches = placed_ahead(
        iterate(
            dataset,
            start,
            batch_size=config.batch_size,
            accumulation_steps=config.accumulation_steps,
            seed=seed,
        ),
        mesh,
    )
    skipped = 0

    def record(number: int, metrics: Any, **more: float) -> Mapping[str, Any]:
        nonlocal skipped
        numbers = jax.device_get(metrics) | more
        # Refuses a metric that no step has before a long training, not at its end.
        retention.judged(numbers)
        try:
            if watch is not None:
                numbers |= watch.seen(number, numbers)
            written.write(number, numbers)
        except OSError as error:
            if not disk.lacks_space(error):
                raise
            # The file keeps what it could not write, for the next time.
            written.say(f"step {number}: its numbers wait for space on the disk")
        skipped = skipped + 1 if numbers["skipped"] else 0
        if skipped == config.max_skipped_steps:
            raise ValueError(_diverged(number, skipped))
        return numbers

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
    wishes, timer = Wishes(mesh), SaveTimer(config.save_minutes)
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
                # By one clock, that of the first process.
                late = processes.is_primary() and timer.due()
                told, late = wishes.shared([stop.noted, late])
                due = number % config.save_every == 0 or number == steps
                found = measured(number)
                # What may be the best must be there to be kept.
                due = due or told or late or config.keep_best in found
                if due or found:
                    numbers = record(number, metrics, **found)
                    waiting = None
                lost = checkpoints.errors()
                if due:
                    at = replace(position, step=number)
                    timer.restart()
                    with clock.lost_to("save"):
                        if number == steps or told:
                            checkpoints.save_last(
                                arrays_of(state), at, numbers, written.say
                            )
                        else:
                            lost += checkpoints.save(arrays_of(state), at, numbers)
                for line in lost:
                    written.say(line)
                    timer.again(disk.RETRY_SECONDS)
                if told and number < steps:
                    raise Preempted(number)
    finally:
        profile.close()
        if watch is not None:
            watch.close()
        with clock.lost_to("save"):
            checkpoints.close()
        written.close()
    return Fitted(state, start)


def _open_log(
    run_dir: Path,
    steps: int,
    start: int,
    every: int,
    log: LogConfig,
    about: Mapping[str, Any] | None,
    began: float | None,
) -> RunLog | NoLog:
    """What the first process writes down, and no other does."""
    if not processes.is_primary():
        return NoLog(run_dir, start=start, began=began)
    return RunLog(
        run_dir,
        steps=steps,
        start=start,
        every=every,
        sinks=make_sinks(log, run_dir, start, about or {}),
        began=began,
    )


def _prove_same_data(dataset: Dataset) -> None:
    """ValueError where a process has read other rows than the first one."""
    found = processes.gather_text(dataset.fingerprint)
    other = [str(n) for n, fingerprint in enumerate(found) if fingerprint != found[0]]
    if other:
        raise ValueError(
            f"process {', '.join(other)} of {len(found)} packed other rows than "
            "process 0; expected the same data and tokenizer files on every host. "
            "Look whether data.path is the same file everywhere"
        )


def _abstract_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    places: TrainState,
    policy: Policy,
) -> TrainState:
    """Shapes, dtypes and places of the state that `init_state` would make."""
    shapes = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        params,
        jax.eval_shape(optimizer.init, params),
        jax.eval_shape(policy.start, params),
    )
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        places,
    )


def _diverged(number: int, skipped: int) -> str:
    return (
        f"loss or gradient were not finite in {skipped} steps in a row, "
        f"{number - skipped + 1} to {number}, which changed nothing; see metrics.jsonl "
        f"for the steps before. Lower train.learning_rate or train.clip_norm, look at "
        f"the records of these steps in {SKIPPED_FILE}, or raise "
        "train.max_skipped_steps"
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
    return meshes.put_rows(batch, mesh, lead=1)
