"""Training loop: restore, then step, validate, save and stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.provenance import Provenance, identity
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.config.schema import ConfigError, LogConfig, TrainConfig
from targetsft_jax.data.pipeline import Dataset, iterate, rows_at
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import preemption, processes
from targetsft_jax.parallel.preemption import Preempted, StopSignal
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.telemetry import Telemetry
from targetsft_jax.training.agreement import StepAgreement
from targetsft_jax.training.micro_batch import StepSpec
from targetsft_jax.training.optimizer import learning_rate, make_optimizer
from targetsft_jax.training.saving import Saver
from targetsft_jax.training.state import (
    Params,
    TrainState,
    abstract_state,
    arrays_of,
    init_state,
    state_of,
    state_shardings,
)
from targetsft_jax.training.step import make_train_step
from targetsft_jax.training.validate import Validation, Validator


@dataclass(frozen=True)
class Start:
    """Initial parameters, loaded only if there is no checkpoint to resume.

    Attributes:
        shapes: parameter tree with shapes in place of arrays.
        load: reads or initializes the parameters on the mesh; `fit` consumes them.
    """

    shapes: Any
    load: Callable[[], Params]


@dataclass(frozen=True)
class TrainingData:
    """Training rows and their order.

    Attributes:
        dataset: packed training rows.
        seed: seed of the order of batches.
        validation: held-out rows and their cadence; None: no validation.
    """

    dataset: Dataset
    seed: int
    validation: Validation | None = None

    def examples_of(self, step: int, batch_size: int) -> list[str]:
        """List the examples in the rows of a 1-based step, as `file:line`."""
        rows = rows_at(self.dataset, step - 1, batch_size=batch_size, seed=self.seed)
        per_row = (self.dataset.origins(row) for row in rows.reshape(-1).tolist())
        return [example for examples in per_row for example in examples]

    def batches(
        self, steps_taken: int, config: TrainConfig
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield batches of [A, B, L] arrays after `steps_taken` steps, endlessly."""
        return iterate(
            self.dataset,
            steps_taken,
            batch_size=config.batch_size,
            accumulation_steps=config.accumulation_steps,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Fitted:
    """Result of `fit`: the final state and the step it resumed from."""

    state: TrainState
    resumed_from: int


def fit(
    spec: StepSpec,
    start: Start,
    frozen: Mapping[str, Params],
    data: TrainingData,
    mesh: Mesh,
    config: TrainConfig,
    *,
    run_dir: RunDir,
    resume: bool = True,
    log: LogConfig | None = None,
    about: Mapping[str, Any] | None = None,
    began: float | None = None,
    before_save: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train to the last step, from the newest checkpoint if there is one.

    Args:
        spec: static configuration of the step.
        start: parameters at step 0.
        frozen: parameters by the names of `spec.frozen_arguments`.
        data: rows, order and held-out rows.
        mesh: device mesh.
        config: optimizer, steps and cadence.
        run_dir: directory of checkpoints and metrics.
        resume: restore the newest checkpoint of `run_dir`.
        log: additional outputs.
        about: resolved configuration, stored with metrics and checkpoints.
        began: `time.perf_counter()` at the start of the session; None: now.
        before_save: called before each checkpoint, when the logs have its step.

    Raises:
        ValueError: the checkpoint has other data or other frozen models, no checkpoint
            is complete, or `config.max_skipped_steps` consecutive steps were skipped.
        Preempted: a process received SIGTERM; the last step is saved.
    """
    steps = total_steps(config, data.dataset)
    spec = replace(spec, steps=steps, seed=data.seed)
    optimizer = make_optimizer(config, steps)
    shardings = state_shardings(
        spec.student, start.shapes, optimizer, mesh, spec.lora, spec.method.policy
    )
    _check_same_data(data.dataset)
    retention = Retention(config.max_to_keep, config.keep_every, config.keep_best)
    provenance = Provenance(about or {}, _identities(frozen, data.dataset))
    checkpoints = Checkpoints(run_dir, retention, provenance)
    position = Position(0, data.seed, config.batch_size, data.dataset.fingerprint)
    policy = spec.method.policy
    if resume and checkpoints.latest is not None:
        like = abstract_state(start.shapes, optimizer, shardings, policy)
        arrays, first = checkpoints.restore(arrays_of(like), position)
        state = state_of(arrays)
    else:
        state, first = init_state(start.load(), optimizer, shardings, policy), 0
    telemetry = Telemetry(
        run_dir,
        steps=steps,
        start=first,
        train=config,
        log=log or LogConfig(),
        about=about or {},
        began=began,
        examples_of=lambda step: data.examples_of(step, config.batch_size),
    )
    saver = Saver(
        checkpoints, retention, position, config, steps, telemetry, before_save
    )
    rate = learning_rate(config, steps)
    step_fn = make_train_step(spec, optimizer, mesh, shardings, rate)
    validator = Validator(spec, mesh, data.validation, config, steps)
    batches = prefetch_to_mesh(data.batches(first, config), mesh)
    agreement = StepAgreement(mesh)
    with StopSignal() as stop, closing(telemetry), saver:
        for step in range(first + 1, steps + 1):
            preemption.check()
            batch = telemetry.next_batch(batches)
            with telemetry.dispatch(step):
                state, metrics = step_fn(state, frozen, batch)
            metrics["epoch"] = step * config.batch_size / data.dataset.rows
            saver.check_metrics(telemetry.step(step, metrics))
            stop_requested, interval_elapsed = agreement.any_host(
                [stop.requested, saver.interval_elapsed()]
            )
            validation_metrics = validator.measure(step, state, frozen, telemetry)
            should_save = (
                stop_requested
                or interval_elapsed
                or saver.scheduled(step)
                or saver.may_be_best(validation_metrics)
            )
            if should_save or validation_metrics:
                # Flush first: metrics.jsonl must reach the step of the checkpoint.
                step_metrics = telemetry.flush(validation_metrics)
            if should_save:
                saver.save(state, step, step_metrics, final=stop_requested)
            saver.report_errors()
            if stop_requested and step < steps:
                raise Preempted(step=step)
    if any(processes.gather_flags(stop.requested)):
        raise Preempted(step=steps)
    return Fitted(state, first)


def total_steps(config: TrainConfig, dataset: Dataset) -> int:
    """Return `config.steps`, or the steps of `config.epochs` passes, at least 1.

    Passes are rounded to whole steps, since the batch size is constant:
    `data.epochs.describe_use` counts the rows that are repeated or left out.

    Raises:
        ConfigError: more steps than an int32 counts.
    """
    if config.steps is not None:
        return config.steps
    steps = config.epochs * dataset.rows / config.batch_size
    if steps >= 2**31:
        raise ConfigError(
            f"train.epochs is {config.epochs:g}, which is {steps:g} steps of"
            f" {config.batch_size:,} rows; expected fewer than {2**31:,} steps"
        )
    return max(1, round(steps))


def prefetch_to_mesh(
    batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Yield batches of [A, B, L] arrays on the mesh, transferred one step ahead.

    The next batch is transferred while the devices compute the current step; each
    device receives only its rows.
    """
    following = meshes.put_rows(next(batches), mesh, lead=1)
    while True:
        batch = following
        following = meshes.put_rows(next(batches), mesh, lead=1)
        yield batch


def _identities(frozen: Mapping[str, Params], dataset: Dataset) -> dict[str, str]:
    """Identity of each frozen model by its role, a stored teacher included."""
    identities = {role: identity(params) for role, params in frozen.items()}
    if dataset.teacher is not None:
        identities["teacher"] = json_digest(vars(dataset.teacher.header))
    return identities


def _check_same_data(dataset: Dataset) -> None:
    """Raise ValueError if a process has other packed rows than process 0."""
    fingerprints = processes.gather_text(dataset.fingerprint)
    different = [
        str(n) for n, text in enumerate(fingerprints) if text != fingerprints[0]
    ]
    if different:
        raise ValueError(
            f"process {', '.join(different)} of {len(fingerprints)} packed other rows "
            "than process 0; expected the same data and tokenizer files on every host. "
            "Check that data.path is the same file everywhere"
        )
