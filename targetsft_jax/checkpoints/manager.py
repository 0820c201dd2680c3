"""Orbax checkpoints of a run: parameters, optimizer, step and data position."""

import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.checksums import array_checksums
from targetsft_jax.checkpoints.commit import atomicity, set_uncommitted_aside
from targetsft_jax.checkpoints.layered_params import save_args
from targetsft_jax.checkpoints.one_replica import read_state
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.provenance import Provenance, digest
from targetsft_jax.checkpoints.reader import PROVENANCE, check_path
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.checkpoints.verification import (
    CHECKSUMS,
    ITEMS,
    StateReader,
    attempt,
    verify,
)
from targetsft_jax.parallel import preemption, processes
from targetsft_jax.storage import disk_full, object_store
from targetsft_jax.storage.location import absolute, is_remote
from targetsft_jax.storage.run_dir import RunDir

Arrays = dict[str, Any]
"""Training state as plain trees of arrays: {"params": …, "optimizer": …}."""


class Checkpoints:
    """Checkpoints of one run directory, saved in the background.

    In a multi-process run all processes call every method. A full disk during a save
    does not end the run: the methods return messages, complete checkpoints stay, and
    the caller retries later.

    Args:
        run_dir: the run's directory.
        retention: rules for the checkpoints that stay.
        provenance: configuration, frozen models and versions, saved with each
            checkpoint.

    Raises:
        ValueError: checkpoints at this path could not be read again.
    """

    def __init__(
        self,
        run_dir: RunDir,
        retention: Retention,
        provenance: Provenance | None = None,
    ):
        check_path(run_dir.checkpoints)
        self._folder = absolute(run_dir.checkpoints)
        self._damaged_folder = absolute(run_dir.damaged_checkpoints)
        self._retention = retention
        self._provenance = provenance or Provenance()
        # Orbax logs each of its threads' errors, which `_unless_full` reports.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(disk_full.REPORTED_ELSEWHERE)
        if processes.is_primary():
            set_uncommitted_aside(run_dir)
        self._manager = self._open()
        # Step and bytes of the save under way.
        self._saving = (0, 0)
        # Step of a save whose files were not checked yet.
        self._unchecked: int | None = None

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            **atomicity(self._folder),
            **self._retention.options(),
        )
        return ocp.CheckpointManager(self._folder, options=options, item_names=ITEMS)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, arrays: Arrays, position: Position, metrics: Mapping[str, Any]
    ) -> list[str]:
        """Start a save, which is completed in the background.

        Args:
            arrays: {"params": tree, "optimizer": tree}.
            position: position after optimizer step `position.step`.
            metrics: metrics of that step.

        Returns:
            Messages about saves that ran out of space: this one or the previous one.
        """
        messages = self.wait()
        self._saving = position.step, _num_bytes(arrays)
        # A save that runs out of space occupies what is left, and a process in which it
        # does would leave the others waiting.
        step, required = self._saving
        full = self._is_full(required)
        reason = self._warning(step, required) if full else ""
        if reason := processes.gather_text(reason)[0]:
            return [*messages, reason]
        begin = partial(self._begin, arrays, position, metrics)
        return messages + self._unless_full(begin)

    def save_last(
        self,
        arrays: Arrays,
        position: Position,
        metrics: Mapping[str, Any],
        report: Callable[[str], None],
    ) -> None:
        """Save and wait for completion; on a full disk, retry for 5 minutes.

        A SIGTERM ends the retries.

        Args:
            arrays, position, metrics: as in `save`.
            report: called with each message.

        Raises:
            OSError: the disk is still full after `disk_full.LAST_SAVE_SECONDS`, or
                when a process received SIGTERM.
        """
        deadline = time.monotonic() + disk_full.LAST_SAVE_SECONDS
        for attempt_number in itertools.count():
            messages = self.save(arrays, position, metrics) + self.wait()
            # Later attempts repeat the same message.
            for message in () if attempt_number else messages:
                report(message)
            if self.latest == position.step:
                return
            # All processes follow the clock of the primary one.
            expired = time.monotonic() > deadline
            if processes.gather_flags(expired)[0] or any(
                processes.gather_flags(preemption.requested())
            ):
                raise OSError(
                    f"the last checkpoint, of step {position.step}, was not saved: the "
                    f"disk is full. {self._previous()} and nothing was deleted. Free "
                    "space and rerun the same command to resume"
                )
            _sleep(disk_full.LAST_SAVE_INTERVAL)

    def errors(self) -> list[str]:
        """Messages about the save under way, without waiting for it."""
        return self._unless_full(self._manager.check_for_errors)

    def wait(self) -> list[str]:
        """Wait for the save under way; returns messages as `save`.

        Raises:
            OSError: the save ended without an error, and its files are not there.
        """
        messages = self._unless_full(self._manager.wait_until_finished)
        if not messages:
            self._check_saved()
        return messages

    def _check_saved(self) -> None:
        """Raise OSError if the newest save lacks a file that makes it readable."""
        if self._unchecked is None:
            return
        folder = self._folder / str(self._unchecked)
        self._unchecked = None
        missing = [
            f"{item}/{name}"
            for item in ("params", "optimizer")
            for name in ("manifest.ocdbt", "_METADATA")
            if not (folder / item / name).is_file()
        ]
        if processes.is_primary() and folder.is_dir() and missing:
            raise OSError(
                f"checkpoint {folder} is unreadable: it has no {', '.join(missing)}; "
                "earlier checkpoints are intact. Check the file system, and rerun the "
                "same command to resume"
            )

    def _begin(
        self, arrays: Arrays, position: Position, metrics: Mapping[str, Any]
    ) -> None:
        params, provenance = arrays["params"], asdict(self._provenance)
        metadata = vars(position) | {
            CHECKSUMS: array_checksums(arrays),
            PROVENANCE: digest(provenance),
        }
        self._manager.save(
            position.step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params, save_args=save_args(params)),
                optimizer=ocp.args.StandardSave(arrays["optimizer"]),
                position=ocp.args.JsonSave(metadata),
                provenance=ocp.args.JsonSave(provenance),
            ),
            metrics=self._retention.judged(metrics),
            force=True,
        )
        self._unchecked = position.step

    def _unless_full(self, action: Callable[[], Any]) -> list[str]:
        """Call `action`; a full disk results in a message instead of an error."""
        try:
            action()
        except Exception as error:
            if not disk_full.lacks_space(error):
                raise
            # The half-written checkpoint occupies the missing space. This manager lists
            # it as a checkpoint; a new one lists complete checkpoints only.
            with contextlib.suppress(Exception):
                self._manager.close()
            self._remove_half_written()
            self._manager = self._open()
            return [self._warning(*self._saving)]
        return []

    def _remove_half_written(self) -> None:
        """Remove half-written checkpoints; their threads may write a little longer."""
        absent = 0
        for _ in range(100):
            paths = list(self._folder.glob("*.orbax-checkpoint-tmp*"))
            absent = 0 if paths else absent + 1
            if absent == 2:
                return
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)

    def _is_full(self, required: int) -> bool:
        """True if the file system lacks space; an object store never does."""
        if is_remote(self._folder):
            return False
        return disk_full.free_bytes(self._folder) < required

    def _previous(self) -> str:
        if self.latest is None:
            return "There is none before it"
        return f"The previous checkpoint ({self.latest}) is intact"

    def _warning(self, step: int, required: int) -> str:
        return disk_full.warning(step, self._folder, required, self.latest)

    def restore(
        self, like: Mapping[str, Any], expected: Position
    ) -> tuple[Arrays, int]:
        """Restore the newest intact checkpoint.

        Newer damaged ones are reported and moved to `run_dir.damaged_checkpoints`,
        since the run will save their steps again. In a multi-process run, if one
        process cannot read its part of a checkpoint, all use the previous one.

        Args:
            like: {"params": tree, "optimizer": tree} of arrays or ShapeDtypeStructs
                with the shardings to restore to.
            expected: the run's position; every field but `step` must equal the
                checkpoint's.

        Returns:
            (arrays, step).

        Raises:
            ValueError: the data, its order or a frozen model has changed, or no
                checkpoint is intact (then none is moved).
        """
        reader = StateReader(self._folder)
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            metadata, reason = attempt(partial(reader.metadata, step))
            if not reason:
                self._check_same_run(step, metadata, expected)
                arrays, reason = read_state(reader, self._folder, step, like)
            if not reason:
                # Collective: every process must have restored its part.
                saved = metadata["position"][CHECKSUMS]
                _, reason = attempt(partial(verify, arrays, saved))
            if reason:
                damaged[step] = reason
                continue
            self._set_aside(damaged)
            for note in self._provenance.notes(metadata["provenance"]):
                print(f"checkpoint {step}: {note}; losses may differ by rounding")
            return arrays, step
        raise ValueError(
            f"no checkpoint in {self._folder} can be restored:\n  "
            + "\n  ".join(f"{step}: {reason}" for step, reason in damaged.items())
            + "\nNothing was deleted. Restore the files, or choose another run_dir"
        )

    def _check_same_run(
        self, step: int, metadata: Mapping[str, Any], expected: Position
    ) -> None:
        """Raise ValueError if the checkpoint has other data or other frozen models."""
        differences = expected.differences(metadata["position"])
        if differences:
            raise ValueError(
                f"checkpoint {step} in {self._folder} was taken on other data: "
                f"{'; '.join(differences)}. Restore the configuration, or choose "
                "another run_dir"
            )
        refusals = self._provenance.refusals(metadata["provenance"])
        if refusals:
            raise ValueError(
                f"checkpoint {step} in {self._folder} was trained with other frozen "
                f"models: {'; '.join(refusals)}. Restore the original models (the "
                "checkpoint's folder provenance has the configuration), or choose "
                "another run_dir"
            )

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        if processes.is_primary():
            for step, reason in damaged.items():
                target = object_store.set_aside(
                    self._folder / str(step), self._damaged_folder
                )
                print(
                    f"checkpoint {step} cannot be restored ({reason}); moved to "
                    f"{target}"
                )
        if damaged:
            processes.barrier("damaged checkpoints set aside")
            self._manager.reload()

    def close(self) -> None:
        """Wait for the save under way and close."""
        self._manager.wait_until_finished()
        self._manager.close()


def _sleep(seconds: float) -> None:
    """Sleep, but not beyond a SIGTERM."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not preemption.requested():
        time.sleep(min(seconds, 0.2))


def _num_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays, unsharded."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
