"""Per-array checksums, computed on the devices.

Checkpoint files hold no checksum of most of their bytes: a flipped bit is read as a
wrong parameter, without an error. So the checksums are saved beside the arrays and
computed again from the arrays that were read.
"""

from typing import Any

import jax
import jax.numpy as jnp

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def array_checksums(tree: Any) -> dict[str, int]:
    """The checksum of each array by its path: Σ bits · (2 · index + 1) modulo 2³².

    A single changed element always changes it, since odd factors have inverses; an
    exchange of elements does too unless the differences happen to be multiples of
    2³². Sums of integers do not depend on order, so every mesh gives the same.

    Args:
        tree: arrays whose elements have at most 32 bits, on any devices.
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
