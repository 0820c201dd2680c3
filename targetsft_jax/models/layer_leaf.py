"""Protocol of parameters that are read one layer at a time."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LayerLeaf(Protocol):
    """A leaf of the parameter tree, in memory, on disk, or computed layer by layer.

    Arrays, `StoredLeaf` (checkpoints), `MappedLeaf` (safetensors) and `lora.Merged`
    implement it. The last three read or compute a layer per access without caching it,
    so that an export holds one layer in memory. Leaves without a layer axis are read by
    `numpy.asarray`.
    """

    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """``[layers, …]`` for a parameter of the layers."""

    def __getitem__(self, layer: int) -> Any:
        """One layer, an array of shape ``shape[1:]``."""
