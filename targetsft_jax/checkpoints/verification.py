"""Read a training state and verify its checksums, in agreement of all processes."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.checksums import array_checksums, compare_checksums
from targetsft_jax.checkpoints.commit import atomicity
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.reader import read_metadata
from targetsft_jax.parallel import processes
from targetsft_jax.storage.location import Location

_T = TypeVar("_T")

ITEMS = ("params", "optimizer", "position", "provenance")
"""Items of a checkpoint: arrays in the first two, JSON in the others."""

CHECKSUMS = "arrays"
"""The field of `position` that holds the checksum of every array."""


class StateReader:
    """Reads checkpoints in this process alone, without Orbax's barriers.

    With them, a process whose part is damaged would leave the others waiting.

    Args:
        folder: folder of the checkpoints.
    """

    def __init__(self, folder: Location):
        self._folder = folder

    def metadata(self, step: int) -> dict[str, dict[str, Any]]:
        """Read `position` and `provenance` of a checkpoint.

        Raises:
            ValueError: a field of the position is missing, or the position is that of
                another step or provenance.
        """
        position, provenance = read_metadata(self._folder / str(step))
        expected = {*Position.__dataclass_fields__, CHECKSUMS}
        if missing := expected - position.keys():
            raise ValueError(f"its position has no {', '.join(sorted(missing))}")
        return {"position": position, "provenance": provenance}

    def arrays(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Read `params` and `optimizer` of a checkpoint.

        Args:
            step: step of the checkpoint.
            like: arrays or ShapeDtypeStructs with the shardings to restore to.
        """
        items = {
            name: ocp.args.StandardRestore(jax.tree.map(_abstract, like[name]))
            for name in ("params", "optimizer")
        }
        with self._manager() as manager:
            restored = manager.restore(step, args=ocp.args.Composite(**items))
        return {name: restored[name] for name in items}

    def _manager(self) -> ocp.CheckpointManager:
        process = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            create=False,
            enable_async_checkpointing=False,
            **atomicity(self._folder),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process,
                active_processes={process},
                barrier_sync_key_prefix=f"p{process}",
            ),
        )
        return ocp.CheckpointManager(self._folder, options=options, item_names=ITEMS)


def verify(arrays: Any, saved: Mapping[str, int]) -> None:
    """Compare restored arrays with their saved checksums.

    Raises:
        ValueError: some arrays differ; names up to three.
    """
    compare_checksums(array_checksums(arrays), saved)


def attempt(read: Callable[[], _T]) -> tuple[_T, str]:
    """Call `read` and share failures among processes; all processes must call this.

    Returns:
        (result, reason). An empty reason means that all processes succeeded; otherwise
        it is the first failure, and the result must not be used.
    """
    result: Any = None
    reason = ""
    try:
        result = read()
    # Readers of damaged files raise errors of any kind.
    except Exception as error:  # noqa: BLE001
        line = str(error).strip().split("\n")[0][:300]
        reason = f"{type(error).__name__}: {line}"
    return result, next(filter(None, processes.gather_text(reason)), "")


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
