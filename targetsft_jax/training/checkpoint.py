"""Orbax checkpoints of a run: parameters, optimizer, step and data position."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from targetsft_jax.training.fingerprint import fingerprints
from targetsft_jax.training.step import TrainState

FOLDER, DAMAGED = "checkpoints", "checkpoints_damaged"


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
    """The checkpoints of one run directory. Saves in the background; see `close`."""

    def __init__(self, run_dir: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(
            (run_dir / FOLDER).absolute(),
            options=options,
            item_names=("params", "optimizer", "position"),
        )

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, position: Position) -> None:
        """Save after optimizer step `position.step`; returns before it is written."""
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
                    {**vars(position), "arrays": fingerprints(kept)}
                ),
            ),
        )

    def restore(self, like: TrainState, expected: Position) -> tuple[TrainState, int]:
        """The newest checkpoint that is whole, and its step.

        Newer ones that are damaged are named, and set aside in a folder of their own:
        the run will come by their steps again.

        Args:
            like: a state or its abstract shape; the restored one is placed as it is.
            expected: what the checkpoint must have been taken on, but for its step.

        Raises:
            ValueError: the data or its order has changed since it was saved, or no
                checkpoint is whole (then none is moved).
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                position = self._position(step)
                changed = _changed(position, expected)
                if not changed:
                    restored = self._arrays(step, like)
                    _compare(fingerprints(restored), position["arrays"])
            # Whatever a reader of broken files may raise.
            except Exception as error:  # noqa: BLE001
                reason = str(error).strip().split("\n")[0][:300]
                damaged[step] = f"{type(error).__name__}: {reason}"
                continue
            if changed:
                raise ValueError(
                    f"checkpoint {step} in {self._manager.directory} was taken on "
                    f"other data: {'; '.join(changed)}. Restore the configuration, or "
                    "choose another run_dir"
                )
            self._set_aside(damaged)
            optimizer = restored["optimizer"]
            state = TrainState(
                optimizer["step"],
                restored["params"],
                optimizer["moments"],
                optimizer.get("held", {}),
            )
            return state, step
        raise ValueError(
            f"no checkpoint in {self._manager.directory} can be restored:\n  "
            + "\n  ".join(f"{step}: {why}" for step, why in damaged.items())
            + "\nNothing was deleted. Bring the files back, or choose another run_dir"
        )

    def _position(self, step: int) -> dict[str, Any]:
        wanted = ocp.args.Composite(position=ocp.args.JsonRestore())
        return dict(self._manager.restore(step, args=wanted).position)

    def _arrays(self, step: int, like: TrainState) -> dict[str, Any]:
        abstract = jax.tree.map(_abstract, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                optimizer=ocp.args.StandardRestore(_optimizer(abstract)),
            ),
        )
        return {"params": restored.params, "optimizer": restored.optimizer}

    def _set_aside(self, damaged: dict[int, str]) -> None:
        folder = Path(self._manager.directory)
        for step, why in damaged.items():
            target = folder.with_name(DAMAGED) / str(step)
            print(f"checkpoint {step} cannot be restored ({why}); moved to {target}")
            if jax.process_index() == 0:
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                (folder / str(step)).rename(target)
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints set aside")
            self._manager.reload()

    def close(self) -> None:
        """Wait for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


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
