"""The protocol of parameters that are read one layer at a time."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LayerLeaf(Protocol):
    """A leaf of the tree of `init_params` that may lie on disk or be computed.

    Arrays are such leaves. The others are `StoredLeaf` of a checkpoint, `MappedLeaf` of
    safetensors files and `lora.Merged`: each access reads or computes a layer, and the
    result is not cached, so that an export holds one layer in memory. Leaves without a
    layer axis are read by `numpy.asarray`.
    """

    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """``[layers, …]`` for a parameter of the layers."""

    def __getitem__(self, layer: int) -> Any:
        """One layer, an array of shape ``shape[1:]``."""
