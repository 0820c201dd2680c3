"""Parameters stored in per-layer chunks, to be read one layer at a time."""

import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.commit import atomicity
from targetsft_jax.storage.location import Location, absolute, is_remote
from targetsft_jax.storage.run_dir import RunDir

_CHUNK_BYTES = 2**28


def save_args(params: Any) -> Any:
    """Orbax's arguments for saving parameters.

    Chunks hold one layer of a stacked parameter, and at most 256 MiB of any other.
    """

    def args(path: Any, leaf: Any) -> ocp.SaveArgs:
        if any(getattr(entry, "key", None) == "layers" for entry in path):
            return ocp.SaveArgs(shard_axes=(0,))
        return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)

    return jax.tree_util.tree_map_with_path(args, params)


def save_params(run_dir: RunDir, params: dict[str, Any]) -> None:
    """Write parameters as checkpoint 0 of a run directory, without an optimizer."""
    folder = absolute(run_dir.checkpoints)
    options = ocp.CheckpointManagerOptions(**atomicity(folder))
    with ocp.CheckpointManager(folder, options=options) as manager:
        item = ocp.args.StandardSave(params, save_args=save_args(params))
        manager.save(0, args=ocp.args.Composite(params=item))


def open_params(folder: Location) -> dict[str, Any]:
    """Open stored parameters: the tree of `init_params` with `StoredLeaf` leaves.

    Args:
        folder: the folder `params` of a checkpoint.

    Raises:
        ValueError: the folder holds no readable parameters.
    """
    import tensorstore

    try:
        metadata = json.loads((folder / "_METADATA").read_text("utf-8"))
        driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
        tree: dict[str, Any] = {}
        for entry in metadata["tree_metadata"].values():
            names = [part["key"] for part in entry["key_metadata"]]
            kvstore = {
                "driver": "ocdbt",
                "base": _key_value_store(folder),
                "path": ".".join(names) + "/",
            }
            spec = {"driver": driver, "kvstore": kvstore}
            store = tensorstore.open(spec, open=True, read=True).result()
            inner = tree
            for name in names[:-1]:
                inner = inner.setdefault(name, {})
            inner[names[-1]] = StoredLeaf(store)
    # Readers of damaged files raise errors of any kind.
    except Exception as error:  # noqa: BLE001
        raise unreadable(folder, error) from None
    return tree


def _key_value_store(folder: Location) -> dict[str, str]:
    """TensorStore's specification of a folder."""
    if is_remote(folder):
        bucket, _, path = str(folder).partition("://")[2].partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{path}/"}
    # No URL, in which some characters of a path have a meaning.
    return {"driver": "file", "path": f"{folder.absolute()}/"}


def unreadable(folder: Location, error: Exception) -> ValueError:
    """Error about the parameters of a damaged checkpoint."""
    line = str(error).strip().split("\n")[0][:300]
    return ValueError(
        f"{folder} cannot be read ({type(error).__name__}: {line}); expected "
        "parameters that a run saved. Use another checkpoint of the run"
    )


class StoredLeaf:
    """A parameter on disk, read on access: a `models.layer_leaf.LayerLeaf`.

    Checkpoints hold one chunk per layer. If a chunk holds several layers, it stays in
    memory until its last layer is read.
    """

    def __init__(self, store: Any):
        self._store = store
        self.shape: tuple[int, ...] = tuple(store.shape)
        self.dtype: np.dtype = store.dtype.numpy_dtype
        self._start, self._layers = 0, np.empty((0,), self.dtype)

    def __getitem__(self, layer: int) -> np.ndarray:
        """One layer of a stacked parameter."""
        if not self._start <= layer < self._start + len(self._layers):
            step = self._store.chunk_layout.read_chunk.shape[0]
            self._start = layer - layer % step
            stop = min(self._start + step, self.shape[0])
            self._layers = self._store[self._start : stop].read().result()
        content = self._layers[layer - self._start]
        if layer == self._start + len(self._layers) - 1:
            self._layers = self._layers[:0].copy()
        return content

    def parts(self) -> Iterator[np.ndarray]:
        """Consecutive parts of the parameter, each in memory at a time."""
        step = self._store.chunk_layout.read_chunk.shape[0]
        for start in range(0, self.shape[0], step):
            yield self._store[start : start + step].read().result()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """The entire parameter."""
        return np.asarray(self._store.read().result(), dtype)
