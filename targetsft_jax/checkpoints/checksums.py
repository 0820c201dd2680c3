"""A number for each array of a tree, which a changed element changes.

Checkpoint files hold no checksum of most of their bytes: a flipped one comes back as a
wrong parameter, and without an error. So the numbers are kept beside the arrays and
taken again of what was read.
"""

from typing import Any

import jax
import jax.numpy as jnp

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def array_checksums(tree: Any) -> dict[str, int]:
    """Of each array by its path: Σ bits · (2 · place + 1) modulo 2³².

    A single changed element always changes it, since odd factors have inverses; an
    exchange of elements does too unless the differences happen to be multiples of
    2³². Sums of integers have no order, so that any mesh gives the same.

    Args:
        tree: of arrays whose elements have at most 32 bits, on any devices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    numbers = jax.device_get(_numbers([leaf for _, leaf in leaves]))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): int(number)
        for (path, _), number in zip(leaves, numbers)
    }


@jax.jit
def _numbers(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_number(leaf) for leaf in leaves]


def _number(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
            jnp.uint32, x.shape, axis
        )
    return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
