"""Per-array checksums, computed on the devices.

Checkpoint files have no checksums of most of their bytes: a flipped bit would silently
restore a wrong parameter. The checksums are saved with the arrays and recomputed from
the restored arrays.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_HOST_CHUNK = 2**22
"""Elements that `host_checksum` converts at a time."""

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def array_checksums(tree: Any) -> dict[str, int]:
    """Checksum of each array: Σ bits · (2 · index + 1) modulo 2³².

    A single changed element always changes it, since odd factors have inverses; so do
    exchanged elements, unless their differences cancel modulo 2³². Integer sums do not
    depend on order, so the result is the same on every mesh.

    Args:
        tree: arrays whose elements have at most 32 bits, on any devices.

    Returns:
        Path, joined by dots -> checksum, 0 to 2³² - 1.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    checksums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {path_name(k): int(c) for (k, _), c in zip(leaves, checksums)}


def path_name(path: Any) -> str:
    """Path of a leaf in a tree, joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def compare_checksums(current: Mapping[str, int], saved: Mapping[str, int]) -> None:
    """Compare the checksums of restored arrays with those that were saved.

    Raises:
        ValueError: some arrays differ; names up to three.
    """
    changed = sorted(key for key, value in current.items() if saved.get(key) != value)
    if changed:
        raise ValueError(
            f"{', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''} "
            "differ from what was saved: bytes of the files have changed"
        )


def host_checksum(parts: Iterable[np.ndarray]) -> int:
    """Checksum of one array on the host, as in `array_checksums`.

    Args:
        parts: consecutive parts of the flattened array, of any shapes.
    """
    total, start = 0, 0
    for part in parts:
        flat = part.reshape(-1)
        for first in range(0, flat.size, _HOST_CHUNK):
            bits = flat[first : first + _HOST_CHUNK]
            bits = bits.view(f"u{bits.dtype.itemsize}").astype(np.uint32)
            index = np.arange(start, start + bits.size, dtype=np.uint64)
            factors = (2 * index + 1).astype(np.uint32)
            total += int((bits * factors).sum(dtype=np.uint64))
            start += bits.size
    return total % 2**32


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_checksum(leaf) for leaf in leaves]


def _checksum(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, x.shape, axis
        )
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)
