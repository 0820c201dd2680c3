"""Claim a run directory: one process at a time, one run, one configuration.

A directory is a run's if any file of a run is in it. It is resumed only under the
configuration that its files prove: RUN/config.yaml, which the run signs, and the
provenance of its checkpoints. Files of any other origin are never replaced.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from targetsft_jax.checkpoints.commit import checkpoint_steps
from targetsft_jax.checkpoints.reader import StoredCheckpoint, check_path
from targetsft_jax.config.load import to_yaml
from targetsft_jax.config.resume import changed_keys, continuation
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic, lock, signed_text, yaml_file
from targetsft_jax.storage.location import absolute, is_remote
from targetsft_jax.storage.mirror import Mirror
from targetsft_jax.storage.run_dir import RunDir


@contextlib.contextmanager
def claim(
    run_dir: RunDir, config: Config, *, extend: bool = True
) -> Iterator[Callable[[], None]]:
    """Own a run directory inside the block: new, or a run of this configuration.

    The primary process holds the lock; all processes share its verdict. For a directory
    of an object store, it also downloads the files of earlier sessions first, and
    uploads those of this one at the end.

    Args:
        run_dir: the directory.
        config: configuration of the run.
        extend: False to refuse another number of steps.

    Yields:
        A function that uploads the files of the directory so far, or does nothing. A
        failure is printed.

    Raises:
        ConfigError: the directory has files of another run or of other origin, it is
            in use, or `resume` is false and it has a run.
        OSError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        error: Exception | None = None
        mirror = None
        if processes.is_primary():
            try:
                check_path(run_dir.checkpoints)
                _check_outside_of_runs(run_dir)
                unlocked = is_remote(run_dir.checkpoints) and run_dir.checkpoints
                if not stack.enter_context(lock.hold(run_dir.lock)):
                    unlocked = run_dir.path
                if unlocked:
                    print(
                        f"{unlocked} is on a file system without locks: do not start "
                        "a second run in it"
                    )
                if run_dir.url is not None:
                    mirror = Mirror(run_dir)
                    mirror.download()
                _check_run(run_dir, config, extend)
            except (ConfigError, ValueError, OSError) as raised:
                error = raised
        reason = processes.gather_text(str(error or ""))[0]
        if isinstance(error, OSError) and not isinstance(error, lock.LockedError):
            raise error
        if reason:
            raise ConfigError(f"run_dir: {reason}") from None
        upload = partial(_try_to_upload, mirror)
        try:
            yield upload
        except BaseException:
            upload()
            raise
        if mirror is not None:
            mirror.upload()


def _try_to_upload(mirror: Mirror | None) -> None:
    """Upload the files of a run; a failure does not end it, and is tried again."""
    try:
        if mirror is not None:
            mirror.upload()
    except OSError as error:
        print(f"the logs were not uploaded ({error}); the next save tries again")


def write_config(run_dir: RunDir, config: Config) -> None:
    """Write RUN/config.yaml; one that no run wrote is set aside.

    The place of the checkpoints is written, too, if it is not in the run directory.
    """
    if not processes.is_primary():
        return
    if run_dir.checkpoint_dir is not None:
        text = f"{absolute(run_dir.checkpoint_dir)}\n"
        atomic.write_text(run_dir.checkpoint_pointer, text)
    path = run_dir.config
    if path.exists() and signed_text.read(path) is None:
        moved = atomic.set_aside(path)
        print(f"{path} is damaged or was edited; moved to {moved}")
    signed_text.write(path, to_yaml(config))


def _check_run(run_dir: RunDir, config: Config, extend: bool) -> None:
    """Raise ConfigError unless the directory is new or has a run of the configuration.

    A configuration is known from RUN/config.yaml, from each checkpoint, or both.
    """
    steps = checkpoint_steps(run_dir)
    present = run_dir.present()
    if not present and not steps:
        return
    if not config.resume:
        raise ConfigError(
            f"{run_dir} already has {_listing(present or [str(steps[-1])])} and "
            "resume is false; choose another run_dir, or delete it"
        )
    known = _known_configurations(run_dir, steps)
    if not known and steps:
        raise ConfigError(
            f"{run_dir} has checkpoint {steps[-1]} and no configuration to "
            "compare: config.yaml is missing or damaged, and the checkpoint has none. "
            "Choose another run_dir; as student.path, the directory starts a new run"
        )
    if not known:
        raise ConfigError(
            f"{run_dir} has {_listing(present)}, and its config.yaml is missing "
            "or is not as a run wrote it. A run would replace these files: move them, "
            "or choose another run_dir"
        )
    for name, tree in known.items():
        if changed := changed_keys(tree, config, extend=extend):
            raise ConfigError(
                f"{run_dir} was started with a different configuration ({name}) "
                "and cannot be resumed:\n  "
                + "\n  ".join(changed)
                + "\nRevert these keys, or choose another run_dir. "
                + continuation(tree, config, run_dir, has_checkpoint=bool(steps))
            )


def _known_configurations(
    run_dir: RunDir, steps: list[int]
) -> dict[str, Mapping[str, Any]]:
    """Origin -> configuration tree, of each readable one."""
    known: dict[str, Mapping[str, Any]] = {}
    text = signed_text.read(run_dir.config)
    if text is None and steps:
        # Earlier versions did not sign it, but wrote it in the same way.
        text = _read_canonical(run_dir.config)
    if text is not None:
        known[run_dir.config.name] = yaml_file.parse(text, str(run_dir.config))
    for step in reversed(steps):
        try:
            _, provenance = StoredCheckpoint(run_dir, step).metadata()
        except ValueError:
            # The training reports damaged checkpoints.
            continue
        tree = provenance.get("config")
        if isinstance(tree, Mapping) and tree:
            known[f"checkpoint {step}"] = tree
    return known


def _read_canonical(path: Path) -> str | None:
    """Text of a YAML mapping that no editor has changed; None for any other file."""
    try:
        text = path.read_text(encoding="utf-8")
        canonical = text == yaml_file.dump(yaml_file.read_mapping(path))
    except (OSError, ValueError):
        return None
    return text if canonical else None


def _check_outside_of_runs(run_dir: RunDir) -> None:
    """Raise ConfigError if the directory is inside a folder of another run."""
    path = run_dir.path.resolve()
    for parent in path.parents:
        folder = parent / path.relative_to(parent).parts[0]
        outer = RunDir(parent)
        if folder in outer.paths() and signed_text.read(outer.config) is not None:
            raise ConfigError(
                f"{run_dir.path} is in {folder}, which belongs to the run {parent}; "
                "choose another run_dir"
            )


def _listing(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" * (len(names) > 4))
