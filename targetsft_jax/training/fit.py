"""The loop: restore, then for each batch step, log and save."""

from collections.abc import Iterator, Mapping
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
from targetsft_jax.data.pipeline import Dataset, iterate, rows_at
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.storage import disk_full as disk
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.policies import Policy
from targetsft_jax.telemetry.telemetry import Telemetry
from targetsft_jax.training.agreement import Wishes
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.preemption import Preempted, StopSignal
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
        run_dir,
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
        state, start = checkpoints.restore(like, position)
    else:
        state = init_state(params, optimizer, places, spec.policy)
    telemetry = Telemetry(
        RunDir(run_dir),
        steps=steps,
        start=start,
        train=config,
        log=log or LogConfig(),
        examples_of=partial(examples_of_step, dataset, config, seed),
        about=about,
        began=began,
    )
    step_fn = make_train_step(spec, optimizer, mesh, places)
    measure = make_measure(spec, mesh)
    rows = config.batch_size // config.accumulation_steps
    batches = placed_ahead(
        iterate(
            dataset,
            start,
            batch_size=rows,
            accumulation=config.accumulation_steps,
            seed=seed,
        ),
        mesh,
    )

    def measured(number: int) -> dict[str, float]:
        if validation is None or (number % validation.every and number != steps):
            return {}
        # The step itself first, or its time would be taken for the measurement's.
        jax.block_until_ready(state.step)
        with telemetry.lost_to("validation"):
            return validate(measure, state, frozen, validation.dataset, mesh, rows)

    # A checkpoint follows its step's line: a run resumed from it has every line before.
    wishes, timer = Wishes(mesh), SaveTimer(config.save_minutes)
    try:
        with StopSignal() as stop:
            for number in range(start + 1, steps + 1):
                batch = telemetry.next_batch(batches)
                with telemetry.dispatch(number):
                    state, metrics = step_fn(state, frozen, batch)
                if (recorded := telemetry.step(number, metrics)) is not None:
                    # Refuses a metric that no step has before a long training.
                    retention.judged(recorded)
                # By one clock, that of the first process.
                late = processes.is_primary() and timer.due()
                told, late = wishes.shared([stop.noted, late])
                due = number % config.save_every == 0 or number == steps
                found = measured(number)
                # What may be the best must be there to be kept.
                due = due or told or late or config.keep_best in found
                if due or found:
                    numbers = telemetry.flush(found)
                    retention.judged(numbers)
                lost = checkpoints.failed()
                if due:
                    at = replace(position, step=number)
                    timer.restart()
                    with telemetry.lost_to("save"):
                        if number == steps or told:
                            checkpoints.save_at_last(
                                state, at, numbers, telemetry.message
                            )
                        else:
                            lost += checkpoints.save(state, at, numbers)
                for line in lost:
                    telemetry.message(line)
                    timer.again(disk.RETRY_SECONDS)
                if told and number < steps:
                    raise Preempted(number)
    finally:
        with telemetry.lost_to("save"):
            checkpoints.close()
        telemetry.close()
    return Fitted(state, start)


def examples_of_step(
    dataset: Dataset, config: TrainConfig, seed: int, step: int
) -> list[str]:
    """The examples in the rows of a step (1-based), as `file:line`."""
    rows = rows_at(
        dataset,
        step - 1,
        batch_size=config.batch_size // config.accumulation_steps,
        accumulation=config.accumulation_steps,
        seed=seed,
    )
    origins = (dataset.origins(row) for row in rows.reshape(-1).tolist())
    return [example for examples in origins for example in examples]


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
