"""Per-array checksums, computed on the devices.

Checkpoint files have no checksums of most of their bytes: a flipped bit would silently
restore a wrong parameter. The checksums are saved with the arrays and recomputed from
the restored arrays.
"""

from typing import Any

import jax
import jax.numpy as jnp

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
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): int(checksum)
        for (path, _), checksum in zip(leaves, checksums)
    }


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
