"""Grouped matrix product: rows sorted by group, each times the matrix of its group.

Accelerators run `jax.lax.ragged_dot`. On a CPU that computes every row with every
matrix, so a loop over blocks of rows takes its place there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

BLOCK = 64
"""Rows of a block on a CPU: enough to amortise the read of a matrix."""

_INTO_MATRICES = jax.lax.RaggedDotDimensionNumbers(
    (((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
)


@jax.custom_vjp
def grouped_dot(rows: Array, matrices: Array, sizes: Array) -> Array:
    """``rows[m] @ matrices[group of m]``: [M, K], [G, K, N] -> [M, N].

    Args:
        rows: the rows of group 0, then those of group 1, and so on.
        matrices: one matrix per group, in the dtype of the rows.
        sizes: [G] int32, rows of each group; their sum is M. Groups may be empty.
    """
    return jax.lax.platform_dependent(
        rows, matrices, sizes, cpu=_blocks, default=jax.lax.ragged_dot
    )


def _forward(
    rows: Array, matrices: Array, sizes: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return grouped_dot(rows, matrices, sizes), (rows, matrices, sizes)


def _backward(
    saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, None]:
    rows, matrices, sizes = saved
    of_rows = grouped_dot(gradient, matrices.swapaxes(1, 2), sizes)
    of_matrices = jax.lax.platform_dependent(
        rows, gradient, sizes, cpu=_block_gradient, default=_ragged_gradient
    )
    return of_rows, of_matrices, None


grouped_dot.defvjp(_forward, _backward)


def _ragged_gradient(rows: Array, gradient: Array, sizes: Array) -> Array:
    """Sum of ``rows[m]ᵀ gradient[m]`` over the rows of each group: [G, K, N]."""
    return jax.lax.ragged_dot_general(rows, gradient, sizes, _INTO_MATRICES)


def _blocks(rows: Array, matrices: Array, sizes: Array) -> Array:
    """`grouped_dot` as one dense product per block of rows of one group.

    A block that ends behind its group writes rows of the next ones, which their own
    blocks overwrite later.
    """
    count, block = len(rows), min(BLOCK, len(rows))
    # So that a block that starts at the last row does not move up.
    padded = jnp.pad(rows, ((0, block), (0, 0)))

    def body(group: Array, start: Array, _: Array, result: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(padded, start, block)
        return jax.lax.dynamic_update_slice_in_dim(
            result, part @ matrices[group], start, 0
        )

    result = jnp.zeros((count + block, matrices.shape[2]), rows.dtype)
    return _each_block(sizes, block, body, result)[:count]


def _block_gradient(rows: Array, gradient: Array, sizes: Array) -> Array:
    """`_ragged_gradient`, block by block in float32."""
    block = min(BLOCK, len(rows))
    padded, others = (jnp.pad(x, ((0, block), (0, 0))) for x in (rows, gradient))

    def body(group: Array, start: Array, size: Array, result: Array) -> Array:
        left = jax.lax.dynamic_slice_in_dim(padded, start, block)
        right = jax.lax.dynamic_slice_in_dim(others, start, block)
        inside = (jnp.arange(block) < size)[:, None]
        product = jnp.matmul(
            left.T, jnp.where(inside, right, 0), preferred_element_type=jnp.float32
        )
        return result.at[group].add(product)

    shape = (len(sizes), rows.shape[1], gradient.shape[1])
    result = _each_block(sizes, block, body, jnp.zeros(shape, jnp.float32))
    return result.astype(rows.dtype)


def _each_block(
    sizes: Array,
    block: int,
    body: Callable[[Array, Array, Array, Array], Array],
    result: Array,
) -> Array:
    """Fold `body(group, first row, rows left in the group, result)` over all blocks."""
    ends = jnp.cumsum(sizes)
    last_blocks = jnp.cumsum((sizes + block - 1) // block)

    def step(number: Array, result: Array) -> Array:
        group = jnp.searchsorted(last_blocks, number, side="right")
        before = jnp.where(group == 0, 0, last_blocks[group - 1])
        start = ends[group] - sizes[group] + (number - before) * block
        return body(group, start, ends[group] - start, result)

    return jax.lax.fori_loop(0, last_blocks[-1], step, result)
