"""Run a configuration: check, measure the start, train, export, measure again."""

import hashlib
import time
from dataclasses import asdict, replace
from pathlib import Path

from targetsft_jax.config.load import to_yaml
from targetsft_jax.config.resume import changed_keys
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.training import banner
from targetsft_jax.training.export import export, write_run_model
from targetsft_jax.training.fit import TrainingData, fit, total_steps
from targetsft_jax.training.measure import Measurements
from targetsft_jax.training.micro_batch import with_base
from targetsft_jax.training.session import Session, Shared, open_session


def run(config: Config, shared: Shared | None = None) -> dict[str, AverageAtK]:
    """Train, evaluate and export as configured; completed stages are skipped.

    Args:
        config: validated configuration.
        shared: frozen parameters and scores of earlier runs in this process.

    Returns:
        Model name -> score; empty without evaluation.

    Raises:
        ConfigError, ValueError, OSError: a key, model, file or run directory cannot be
            used.
        Preempted: SIGTERM was received; the last step is saved.
    """
    began = time.perf_counter()
    _check_same_config(config)
    run_dir = claim(config)
    session = open_session(config, shared)
    processes.barrier("the run directory was read")
    if processes.is_primary():
        run_dir.path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(run_dir.config, to_yaml(config))
    banner.print_session(session, run_dir)
    measurements = Measurements(session, run_dir)
    measurements.results.set_finished(False)
    if config.evaluation.include_teacher:
        measurements.measure_frozen("teacher", "teacher")
    measurements.measure_frozen("start", "student")
    _train(session, run_dir, measurements)
    measurements.results.set_finished(True)
    banner.print_end(session, run_dir, measurements.scores, time.perf_counter() - began)
    return measurements.scores


def claim(config: Config) -> RunDir:
    """Return the run directory, new or of the same configuration.

    Raises:
        ConfigError: it has a run of another configuration, or `resume` is false.
    """
    import yaml

    run_dir = RunDir(Path(config.run_dir).expanduser())
    if not run_dir.config.exists() or not any(run_dir.checkpoints.glob("*")):
        return run_dir
    if not config.resume:
        raise ConfigError(
            f"run_dir {run_dir.path} already has a run and resume is false; choose "
            "another run_dir, or delete it"
        )
    before = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
    changed = changed_keys(before, config)
    if changed:
        raise ConfigError(
            f"run_dir {run_dir.path} was started with a different configuration and "
            "cannot be resumed:\n  "
            + "\n  ".join(changed)
            + "\nRevert these keys, or choose another run_dir"
        )
    return run_dir


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


def _train(session: Session, run_dir: RunDir, measurements: Measurements) -> None:
    """Train, export and measure; completed stages are skipped."""
    began = time.perf_counter()
    config, spec = session.config, session.spec
    steps = total_steps(config.train, session.dataset)
    fingerprint = session.dataset.fingerprint
    exported = measurements.results.is_exported(steps, fingerprint)
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
    )
    if not exported:
        export(session, run_dir, fitted.state.params, frozen, steps)
        measurements.results.set_exported(steps, fingerprint)
    # Adapters are measured unmerged: a merged copy needs the memory of a second model.
    measurements.measure(
        name, result, lambda: with_base(spec, fitted.state.params, frozen)
    )
