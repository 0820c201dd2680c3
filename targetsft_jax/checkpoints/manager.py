"""Orbax checkpoints of a run: parameters, optimizer, step and data position."""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.checksums import array_checksums
from targetsft_jax.checkpoints.provenance import Provenance
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.parallel import processes
from targetsft_jax.storage import disk_full as disk
from targetsft_jax.training.step import TrainState

FOLDER, DAMAGED = "checkpoints", "checkpoints_damaged"
_ITEMS = ("params", "optimizer", "position", "provenance")


@dataclass(frozen=True)
class Position:
    """Where in the data a checkpoint was taken; batches are a function of it.

    Attributes:
        step: the next optimizer step.
        seed: of the order of batches.
        batch_size: rows a step.
        fingerprint: of the packed rows.
    """

    step: int
    seed: int
    batch_size: int
    fingerprint: str


class Checkpoints:
    """The checkpoints of one run directory. Saves in the background; see `close`.

    In a run of several processes all of them call every method.
    """

    def __init__(
        self,
        run_dir: Path,
        retention: Retention,
        provenance: Provenance | None = None,
    ):
        self._folder = (run_dir / FOLDER).absolute()
        self._retention = retention
        self._provenance = provenance or Provenance()
        self._manager = self._open()
        # The step that is being saved, and its bytes.
        self._under_way = (0, 0)

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            **self._retention.options(),
        )
        return ocp.CheckpointManager(self._folder, options=options, item_names=_ITEMS)

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(
        self, state: TrainState, position: Position, metrics: Mapping[str, Any]
    ) -> list[str]:
        """Save after optimizer step `position.step`; returns before it is written.

        Args:
            state: what is saved.
            position: where in the data it was taken.
            metrics: of the step.

        Returns:
            What to say of saves that found the disk full: this one, or the one before.
        """
        lost = self.settled()
        self._under_way = position.step, disk.needed(state)
        if processes.is_multiprocess():
            # Were one process to find no room in the middle, the others would wait.
            step, wanted = self._under_way
            lacking = disk.free(self._folder) < wanted
            why = self._shortage(step, wanted) if lacking else ""
            if (why := processes.gather_text(why)[0]) != "":
                return [*lost, why]
        return lost + self._unless_full(partial(self._begin, state, position, metrics))

    def save_at_last(
        self,
        state: TrainState,
        position: Position,
        metrics: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        """Save and see it through; where the disk is full, wait some time for room.

        Raises:
            OSError: there was none to the end.
        """
        until = time.monotonic() + disk.LAST_SECONDS
        while True:
            for line in self.save(state, position, metrics) + self.settled():
                say(line)
            if self.latest == position.step:
                return
            late = processes.gather_text(str(time.monotonic() > until))[0]
            if late == str(True):
                raise OSError(
                    f"the last checkpoint, of step {position.step}, was not saved: "
                    f"{disk.LAST_SECONDS} s went by and the disk is still full. The "
                    f"checkpoint before ({self.latest}) is whole and nothing was "
                    "deleted; free some space, and the same command goes on from there"
                )
            time.sleep(disk.LAST_EVERY)

    def failed(self) -> list[str]:
        """As `save`, of the save under way; asked between saves, it waits for none."""
        return self._unless_full(self._manager.check_for_errors)

    def settled(self) -> list[str]:
        """As `save`, of the save under way, for whose end it waits."""
        return self._unless_full(self._manager.wait_until_finished)

    def _begin(
        self, state: TrainState, position: Position, metrics: Mapping[str, Any]
    ) -> None:
        optimizer = _optimizer(state)
        kept = {"params": state.params, "optimizer": optimizer}
        self._manager.save(
            position.step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(
                    state.params, save_args=by_layers(state.params)
                ),
                optimizer=ocp.args.StandardSave(optimizer),
                position=ocp.args.JsonSave(
                    {**vars(position), "arrays": array_checksums(kept)}
                ),
                provenance=ocp.args.JsonSave(asdict(self._provenance)),
            ),
            metrics=self._retention.judged(metrics),
            force=True,
        )

    def _unless_full(self, act: Callable[[], Any]) -> list[str]:
        """Nothing, or what to say where the disk is full. Whole checkpoints stay."""
        try:
            act()
        except Exception as error:
            if not disk.lacks_space(error):
                raise
            # What is half written holds the space that is lacking. The manager counts
            # it among its checkpoints: a new one knows only those that are there.
            with contextlib.suppress(Exception):
                self._manager.close()
            for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
            self._manager = self._open()
            return [self._shortage(*self._under_way)]
        return []

    def _shortage(self, step: int, wanted: int) -> str:
        return disk.shortage(step, self._folder, wanted, self.latest)

    def restore(self, like: TrainState, expected: Position) -> tuple[TrainState, int]:
        """The newest checkpoint that is whole, and its step.

        Newer ones that are damaged are named, and set aside in a folder of their own:
        the run will come by their steps again. Of several processes, one that cannot
        read its part of a checkpoint makes all of them take the one before.

        Args:
            like: a state or its abstract shape; the restored one is placed as it is.
            expected: what the checkpoint must have been taken on, but for its step.

        Raises:
            ValueError: the data or its order or a frozen model has changed since it
                was saved, or no checkpoint is whole (then none is moved).
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            about, why = _tried(partial(self._about, step))
            if not why:
                self._prove_same(step, about, expected)
                restored, why = _tried(partial(self._arrays, step, like))
            if not why:
                found, kept = array_checksums(restored), about["position"]["arrays"]
                _, why = _tried(partial(_compare, found, kept))
            if why:
                damaged[step] = why
                continue
            self._set_aside(damaged)
            for note in self._provenance.notes(about["provenance"]):
                print(f"checkpoint {step}: {note}; losses may differ by rounding")
            optimizer = restored["optimizer"]
            state = TrainState(
                optimizer["step"],
                restored["params"],
                optimizer["moments"],
                optimizer.get("held", {}),
            )
            return state, step
        raise ValueError(
            f"no checkpoint in {self._folder} can be restored:\n  "
            + "\n  ".join(f"{step}: {why}" for step, why in damaged.items())
            + "\nNothing was deleted. Bring the files back, or choose another run_dir"
        )

    def _about(self, step: int) -> dict[str, dict[str, Any]]:
        """What stands beside the arrays of a checkpoint."""
        names = ["position"]
        # Those of version 0.1.0 have none.
        if (self._folder / str(step) / "provenance").exists():
            names.append("provenance")
        wanted = {name: ocp.args.JsonRestore() for name in names}
        with self._reader() as reader:
            found = reader.restore(step, args=ocp.args.Composite(**wanted))
        about = {"provenance": {}} | {name: dict(found[name]) for name in names}
        lacking = {*Position.__dataclass_fields__, "arrays"} - about["position"].keys()
        if lacking:
            raise ValueError(f"its position has no {', '.join(sorted(lacking))}")
        return about

    def _prove_same(
        self, step: int, about: dict[str, dict[str, Any]], expected: Position
    ) -> None:
        changed = _changed(about["position"], expected)
        if changed:
            raise ValueError(
                f"checkpoint {step} in {self._folder} was taken on other data: "
                f"{'; '.join(changed)}. Restore the configuration, or choose another "
                "run_dir"
            )
        other = self._provenance.refusals(about["provenance"])
        if other:
            raise ValueError(
                f"checkpoint {step} in {self._folder} was trained beside other models: "
                f"{'; '.join(other)}. Bring back the models of the start (the "
                "configuration is in the checkpoint's folder provenance), or choose "
                "another run_dir"
            )

    def _arrays(self, step: int, like: TrainState) -> dict[str, Any]:
        abstract = jax.tree.map(_abstract, like)
        with self._reader() as reader:
            restored = reader.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(abstract.params),
                    optimizer=ocp.args.StandardRestore(_optimizer(abstract)),
                ),
            )
        return {"params": restored.params, "optimizer": restored.optimizer}

    def _reader(self) -> ocp.CheckpointManager:
        """For this process alone: where its part is damaged, no other waits for it."""
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"p{own}"
        )
        options = ocp.CheckpointManagerOptions(
            create=False,
            enable_async_checkpointing=False,
            multiprocessing_options=alone,
        )
        return ocp.CheckpointManager(self._folder, options=options, item_names=_ITEMS)

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, why in damaged.items():
            target = self._folder.with_name(DAMAGED) / str(step)
            print(f"checkpoint {step} cannot be restored ({why}); moved to {target}")
            if processes.is_primary():
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                (self._folder / str(step)).rename(target)
        if damaged:
            processes.barrier("damaged checkpoints set aside")
            self._manager.reload()

    def close(self) -> None:
        """Wait for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _tried(read: Callable[[], Any]) -> tuple[Any, str]:
    """What was read, and why it could not be in any process; all must call it."""
    found, why = None, ""
    try:
        found = read()
    # Whatever a reader of broken files may raise.
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().split("\n")[0][:300]
        why = f"{type(error).__name__}: {reason}"
    return found, next((said for said in processes.gather_text(why) if said), "")


def _optimizer(state: TrainState) -> dict[str, Any]:
    """All of a state but its parameters; most have no policy to hold."""
    kept = {"step": state.step, "moments": state.optimizer}
    return kept | ({"held": state.held} if state.held else {})


def by_layers(params: Any) -> Any:
    """How to store parameters: in chunks of a layer, or of 256 MiB of what has none,
    so that an export reads a part at a time."""

    def args(path: Any, leaf: Any) -> ocp.SaveArgs:
        stacked = any(getattr(entry, "key", None) == "layers" for entry in path)
        if stacked:
            return ocp.SaveArgs(shard_axes=(0,))
        return ocp.SaveArgs(chunk_byte_size=2**28)

    return jax.tree_util.tree_map_with_path(args, params)


def _changed(position: dict[str, Any], expected: Position) -> list[str]:
    """What a checkpoint was taken on otherwise; asked before its arrays are read."""
    return [
        f"{key} was {position.get(key)!r} and is {value!r}"
        for key, value in vars(expected).items()
        if key != "step" and position.get(key) != value
    ]


def _compare(found: dict[str, int], kept: dict[str, int]) -> None:
    changed = sorted(key for key in found if kept.get(key) != found[key])
    if changed:
        raise ValueError(
            f"{', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''} "
            "differ from what was saved: bytes of the files have changed"
        )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
