"""Grouped matrix product: rows sorted by group, each times the matrix of its group.

`jax.lax.ragged_dot` is one kernel on TPUs, but only there, and only forward: its
gradient with respect to the matrices, and both products on CPUs and GPUs, compute every
row with every matrix. So TPUs take the kernel `tgmm` of jax for that gradient, and CPUs
and GPUs a loop over blocks of rows.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

BLOCK = 64
"""Rows of a block on a CPU: enough to amortise the read of a matrix."""

GPU_BLOCK = 256
"""Rows of a block on a GPU, where every block is several launches of kernels."""

_TILES = {2: (512, 1024, 1024), 4: (512, 512, 512)}
"""Bytes per number -> largest tiles of `tgmm` over M, K and N, which fit with their
buffers into the 16 MiB of a TPU's vector memory."""


@jax.custom_vjp
def grouped_dot(rows: Array, matrices: Array, sizes: Array) -> Array:
    """``rows[m] @ matrices[group of m]``: [M, K], [G, K, N] -> [M, N].

    Args:
        rows: the rows of group 0, then those of group 1, and so on.
        matrices: one matrix per group, in the dtype of the rows.
        sizes: [G] int32, rows of each group; their sum is M. Groups may be empty.
    """
    return jax.lax.platform_dependent(
        *(rows, matrices, sizes),
        cpu=_blocks,
        tpu=jax.lax.ragged_dot,
        default=partial(_blocks, block=GPU_BLOCK),
    )


def _forward(
    rows: Array, matrices: Array, sizes: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return grouped_dot(rows, matrices, sizes), (rows, matrices, sizes)


def _backward(
    saved: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, None]:
    rows, matrices, sizes = saved
    of_rows = jax.lax.platform_dependent(
        *(gradient, matrices, sizes),
        cpu=partial(_blocks, transposed=True),
        tpu=_ragged_transposed,
        default=partial(_blocks, block=GPU_BLOCK, transposed=True),
    )
    of_matrices = jax.lax.platform_dependent(
        *(rows, gradient, sizes),
        cpu=_block_gradient,
        tpu=_tiled_gradient,
        default=partial(_block_gradient, block=GPU_BLOCK),
    )
    return of_rows, of_matrices, None


grouped_dot.defvjp(_forward, _backward)


def _ragged_transposed(gradient: Array, matrices: Array, sizes: Array) -> Array:
    """``gradient[m] @ matrices[group of m]ᵀ``: [M, N], [G, K, N] -> [M, K]."""
    return jax.lax.ragged_dot(gradient, matrices.swapaxes(1, 2), sizes)


def _tiled_gradient(
    rows: Array, gradient: Array, sizes: Array, interpret: bool = False
) -> Array:
    """Sum of ``rows[m]ᵀ gradient[m]`` over the rows of each group: [G, K, N]."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    tile, *most = _TILES[rows.dtype.itemsize]
    others = map(min, most, (rows.shape[1], gradient.shape[1]))
    missing = -len(rows) % tile
    # Rows of zeros, of the last group, change nothing.
    rows, gradient = (jnp.pad(x, ((0, missing), (0, 0))) for x in (rows, gradient))
    sizes = sizes.at[-1].add(missing)
    tiles = (tile, *others)
    return tgmm(rows.T, gradient, sizes, rows.dtype, tiles, interpret=interpret)


def _blocks(
    rows: Array,
    matrices: Array,
    sizes: Array,
    block: int = BLOCK,
    transposed: bool = False,
) -> Array:
    """`grouped_dot` as one dense product per block of rows of one group.

    A block that ends behind its group writes rows of the next ones, which their own
    blocks overwrite later. With transposed matrices these are read in place: XLA would
    transpose all of them before the loop.
    """
    count, block = len(rows), min(block, len(rows))
    # So that a block that starts at the last row does not move up.
    padded = jnp.pad(rows, ((0, block), (0, 0)))
    contracted, width = (2, 1) if transposed else (1, 2)

    def body(group: Array, start: Array, _: Array, result: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(padded, start, block)
        product = jax.lax.dot_general(
            part, matrices[group], (((1,), (contracted - 1,)), ((), ()))
        )
        return jax.lax.dynamic_update_slice_in_dim(result, product, start, 0)

    result = jnp.zeros((count + block, matrices.shape[width]), rows.dtype)
    return _each_block(sizes, block, body, result)[:count]


def _block_gradient(
    rows: Array, gradient: Array, sizes: Array, block: int = BLOCK
) -> Array:
    """`_tiled_gradient`, block by block in float32."""
    block = min(block, len(rows))
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
