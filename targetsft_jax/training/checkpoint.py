"""Orbax checkpoints of a run: parameters, optimizer, step and data position."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from targetsft_jax.training.step import TrainState

FOLDER = "checkpoints"


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
        self._manager.save(
            position.step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(
                    state.params, save_args=by_layers(state.params)
                ),
                optimizer=ocp.args.StandardSave(
                    {"step": state.step, "moments": state.optimizer}
                ),
                position=ocp.args.JsonSave(vars(position)),
            ),
        )

    def restore(self, like: TrainState, expected: Position) -> TrainState:
        """The newest checkpoint, placed as `like` (a state or its abstract shape).

        Raises:
            ValueError: the data or its order has changed since it was saved.
        """
        step = self.latest
        position = self._manager.restore(
            step, args=ocp.args.Composite(position=ocp.args.JsonRestore())
        ).position
        changed = [
            f"{key} was {position[key]!r} and is {value!r}"
            for key, value in vars(expected).items()
            if key != "step" and position[key] != value
        ]
        if changed:
            raise ValueError(
                f"checkpoint {step} in {self._manager.directory} was taken on other "
                f"data: {'; '.join(changed)}. Restore the configuration, or choose "
                "another run_dir"
            )
        abstract = jax.tree.map(_abstract, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                optimizer=ocp.args.StandardRestore(
                    {"step": abstract.step, "moments": abstract.optimizer}
                ),
            ),
        )
        optimizer: Any = restored.optimizer
        return TrainState(optimizer["step"], restored.params, optimizer["moments"])

    def close(self) -> None:
        """Wait for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def by_layers(params: Any) -> Any:
    """How to store parameters: in chunks of a layer, or of 256 MiB of what has none,
    so that an export reads a part at a time."""

    def args(path: Any, leaf: Any) -> ocp.SaveArgs:
        stacked = any(getattr(entry, "key", None) == "layers" for entry in path)
        if stacked:
            return ocp.SaveArgs(shard_axes=(0,))
        return ocp.SaveArgs(chunk_byte_size=2**28)

    return jax.tree_util.tree_map_with_path(args, params)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
