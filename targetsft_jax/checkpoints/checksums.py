"""Per-array checksums, computed where the arrays are.

Checkpoint files have no checksums of most of their bytes: a flipped bit would silently
restore a wrong parameter. The checksums are saved with the arrays and recomputed from
the restored arrays.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_HOST_CHUNK = 2**16
"""Elements at a time on the host, few enough for the cache of a core."""

_FACTORS = 2 * np.arange(_HOST_CHUNK, dtype=np.uint32) + 1

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
    checksums: dict[str, int] = {}
    on_devices: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_on_host(leaf):
            # Of a new array: jax would keep the view, and not reuse the leaf's memory.
            view = np.asarray(leaf.addressable_data(0))
            checksums[path_name(path)] = host_checksum([view])
        else:
            on_devices[path_name(path)] = leaf
    if on_devices:
        sums = jax.device_get(_checksums(list(on_devices.values())))
        checksums |= dict(zip(on_devices, map(int, sums)))
    return checksums


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
    products = np.empty(_HOST_CHUNK, np.uint32)
    for part in parts:
        flat = part.reshape(-1)
        for first in range(0, flat.size, _HOST_CHUNK):
            bits = flat[first : first + _HOST_CHUNK]
            bits = bits.view(f"u{bits.dtype.itemsize}").astype(np.uint32, copy=False)
            size = bits.size
            product = np.multiply(bits, _FACTORS[:size], out=products[:size])
            # Σ bits · (2 · (start + index) + 1), modulo 2³².
            total += int(product.sum(dtype=np.uint32))
            total += 2 * start * int(bits.sum(dtype=np.uint32))
            start += size
    return total % 2**32


def _is_on_host(leaf: Any) -> bool:
    """True for an array of which the memory of this process has a full copy.

    XLA's program for a CPU takes five to ten times as long as numpy.
    """
    if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated:
        return False
    return all(device.platform == "cpu" for device in leaf.devices())


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
