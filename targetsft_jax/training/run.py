"""Run a configuration: check, measure the start, train, export, measure again."""

import hashlib
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import jax

from targetsft_jax.checkpoints.claim import claim, write_config
from targetsft_jax.checkpoints.commit import checkpoint_steps
from targetsft_jax.checkpoints.reader import StoredCheckpoint
from targetsft_jax.command import Stopped
from targetsft_jax.config.load import to_yaml
from targetsft_jax.config.paths import check_stores, run_dir_of
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.parallel import processes
from targetsft_jax.parallel.preemption import Preempted, RaisedSignals
from targetsft_jax.storage import disk_full
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.compilation_cache import use_compilation_cache
from targetsft_jax.training import banner
from targetsft_jax.training.drift import check_drift
from targetsft_jax.training.export import (
    add_results,
    check_exports,
    export,
    write_run_model,
)
from targetsft_jax.training.fit import TrainingData, fit, total_steps
from targetsft_jax.training.measure import Measurements
from targetsft_jax.training.micro_batch import with_base
from targetsft_jax.training.optimizer import learning_rate
from targetsft_jax.training.session import Session, Shared, open_session


def run(
    config: Config, shared: Shared | None = None, *, extend: bool = True
) -> dict[str, AverageAtK]:
    """Train, evaluate and export as configured; completed stages are skipped.

    Args:
        config: validated configuration.
        shared: frozen parameters and scores of earlier runs in this process.
        extend: False to refuse another number of steps than that of a stored run: its
            schedules were those of the other number.

    Returns:
        Model name -> score; empty without evaluation.

    Raises:
        ConfigError, ValueError, OSError: a key, model, file or run directory cannot be
            used.
        Stopped: SIGTERM or Ctrl-C; its message names the newest checkpoint.
    """
    _check_same_config(config)
    check_stores(config)
    run_dir = run_dir_of(config)
    with RaisedSignals():
        try:
            with claim(run_dir, config, extend=extend) as upload:
                return _run(config, run_dir, shared, upload)
        except Stopped as stop:
            raise stop.with_details(_last_words(run_dir)) from None
        except KeyboardInterrupt:  # The second Ctrl-C.
            second = Preempted(signal.SIGINT)
            raise second.with_details(_last_words(run_dir)) from None
        except OSError as error:
            if not disk_full.lacks_space(error):
                raise
            text = f"the disk is full ({error}); {_last_words(run_dir)}"
            raise OSError(text) from None


def _run(
    config: Config, run_dir: RunDir, shared: Shared | None, upload: Callable[[], None]
) -> dict[str, AverageAtK]:
    began = time.perf_counter()
    use_compilation_cache(config.cache_dir)
    session = open_session(config, shared)
    processes.barrier("the run directory was read")
    measurements = Measurements(session, run_dir)
    steps = total_steps(config.train, session.dataset)
    change = _changed_length(config, run_dir, steps, session.dataset)
    exported = processes.gather_flags(
        measurements.results.is_exported(steps, session.dataset.fingerprint)
    )[0]
    check_exports(session, run_dir, exported=exported)
    write_config(run_dir, config)
    banner.print_session(session, run_dir)
    if change:
        print(f"\n{change}")
    measurements.results.set_finished(False)
    check_drift(session, run_dir)
    if config.evaluation.include_teacher:
        measurements.measure_frozen("teacher", "teacher")
    measurements.measure_frozen("start", "student")
    _train(session, run_dir, measurements, upload, exported=exported)
    add_results(session, run_dir, measurements.scores, steps)
    measurements.record(steps)
    measurements.results.set_finished(True)
    banner.print_end(session, run_dir, measurements.scores, time.perf_counter() - began)
    return measurements.scores


def _changed_length(
    config: Config, run_dir: RunDir, steps: int, dataset: Dataset
) -> str:
    """Message about a resumed run with another number of steps; empty without one.

    Raises:
        ConfigError: fewer steps than are trained.
    """
    trained = checkpoint_steps(run_dir)
    if not trained:
        return ""
    newest, train = trained[-1], config.train
    if steps < newest:
        found = f"train.steps is {train.steps}"
        if train.steps is None:
            found = f"train.epochs is {train.epochs:g}, which is {steps} steps,"
        raise ConfigError(
            f"{found} and {run_dir.path} has checkpoint {newest}; expected at least "
            f"{newest} steps, or another run_dir"
        )
    try:
        _, provenance = StoredCheckpoint(run_dir, newest).metadata()
        stored = provenance["config"]["train"]
        before = replace(train, steps=stored["steps"], epochs=stored["epochs"])
        old = total_steps(before, dataset)
    except (ValueError, LookupError, TypeError):
        return ""  # The restore reports damage.
    if old == steps:
        return ""
    following = min(newest + 1, steps)
    rates = [
        # One program: operation by operation, the schedule takes a second to compile.
        float(jax.jit(learning_rate(train, total))(step - 1))
        for total, step in ((old, newest), (steps, following))
    ]
    moved = "".join(f", target.{name}" for name in config.method.schedules)
    return (
        f"{steps} steps in place of {old}: the schedules of the learning rate{moved} "
        f"are those of {steps} steps from now on; learning rate {rates[0]:.2g} at step "
        f"{newest}, {rates[1]:.2g} at step {following}"
    )


def _last_words(run_dir: RunDir) -> str:
    """Newest complete checkpoint, and the way to resume."""
    steps = checkpoint_steps(run_dir)
    if not steps:
        return f"there is no checkpoint in {run_dir}: the same command starts again"
    return (
        f"the newest checkpoint is that of step {steps[-1]} in {run_dir.checkpoints}: "
        "rerun the same command to resume"
    )


def _check_same_config(config: Config) -> None:
    """Raise ConfigError if the processes have different configurations."""
    text = to_yaml(replace(config, mesh=replace(config.mesh, process=None)))
    digests = processes.gather_text(hashlib.sha256(text.encode()).hexdigest())
    different = [str(n) for n, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise ConfigError(
            f"process {', '.join(different)} of {len(digests)} has another "
            "configuration than process 0; expected the same command on every host, "
            "except for mesh.process"
        )


def _train(
    session: Session,
    run_dir: RunDir,
    measurements: Measurements,
    upload: Callable[[], None],
    *,
    exported: bool,
) -> None:
    """Train, export and measure; completed stages are skipped."""
    began = time.perf_counter()
    config, spec = session.config, session.spec
    steps = total_steps(config.train, session.dataset)
    name, result = spec.method.name, f"trained for {steps} steps"
    if exported and measurements.recall(name, result):
        print(f"\n{spec.method}: {steps} steps, already trained and exported")
        return
    print(f"\n{spec.method}: {steps} steps")
    frozen = session.frozen_arguments()
    write_run_model(session, run_dir)
    fitted = fit(
        spec,
        session.start(),
        frozen,
        TrainingData(session.dataset, config.seed, session.validation),
        session.mesh,
        config.train,
        run_dir=run_dir,
        resume=config.resume,
        log=config.log,
        about=asdict(config),
        began=began,
        before_save=upload,
    )
    if not exported:
        export(session, run_dir, fitted.state.params, frozen, steps)
        measurements.results.set_exported(steps, session.dataset.fingerprint)
    # Adapters are measured unmerged: a merged copy needs the memory of a second model.
    measurements.measure(
        name, result, lambda: with_base(spec, fitted.state.params, frozen)
    )
