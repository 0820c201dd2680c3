"""Fused loss over a mesh: tokens over some axes, the vocabulary over others.

Left to the partitioner, the loop over chunks would gather all tokens to every device
or reduce ∂head in every chunk. Here each device loops over its group's tokens with its
share of the vocabulary. Before the loop, a head is resharded from the model width to
rows of the vocabulary, and tokens are gathered within their group; after it, ∂head and
∂hidden are resharded back, each reduced once. In the loop the only collective is one
all-gather of the statistics of a chunk's rows.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from targetsft_jax.loss.fused import Layout, round_up
from targetsft_jax.loss.tile import Columns
from targetsft_jax.parallel.rules import prefix_that_divides

P = PartitionSpec
Axes = tuple[str, ...]


@dataclass(frozen=True)
class MeshLayout(Layout):
    """Tokens and vocabulary sharded over the axes of a mesh.

    In the notation of shapes with the axes that shard each dimension, on the mesh
    (data, across, within, tensor) of the training step, whose context axes are left out
    here: they take part like across and within, but shard L instead of B:

        stored        x[N_{data,across,within}, D]      W[V, D_{across,within,tensor}]
        in the loop   x[N_{data,across}, D]             W[V_{within,tensor}, D]
        ∂ in the loop ∂x[N_{data,across}, D] {U_{within,tensor}}
                      ∂W[V_{within,tensor}, D] {U_{data,across}}

    {U_A} marks partial sums over A. An axis in both `tokens` and `vocabulary` (here
    `within`) forms a group: its devices all-gather their tokens before the loop, each
    multiplies all of them with its rows of the vocabulary, and ∂x is reduce-scattered
    after it. An axis in neither (across, for W) is all-gathered; an axis in
    `vocabulary` moves from D to V by an all-to-all.

    Attributes:
        mesh: the devices; an abstract mesh inside jit only.
        tokens: axes that shard the batch, the slowest first.
        context: the last of them, which shard the second axis of [B, L] batches; the
            others shard the first.
        vocabulary: axes that shard the heads' rows in the loop.
        width: axes that shard stored heads [V, D], on D, the slowest first: as many of
            them, from the first on, as divide D. Axes in an inner tuple are used all
            or not at all.
    """

    mesh: Mesh | AbstractMesh
    tokens: Axes
    vocabulary: Axes = ()
    width: tuple[str | Axes, ...] = ()
    context: Axes = ()

    def stored(self, width: int) -> Axes:
        """Axes that shard a stored head of this width."""
        return self._several(prefix_that_divides(width, self.width, self.mesh.shape))

    def run(
        self, local: Callable[..., Any], results: tuple[str, ...], *arguments: Any
    ) -> Any:
        def by_token(tree: Any) -> Any:
            return jax.tree.map(lambda _: batch_spec, tree)

        def stored(tree: Any) -> Any:
            return jax.tree.map(lambda x: P(None, self.stored(x.shape[1])), tree)

        rows = tuple(axis for axis in self.tokens if axis not in self.context)
        batch_spec = P(rows, self.context) if self.context else P(rows)
        hidden, head, batch, heads = arguments
        specs = {
            "everywhere": P(),
            "tokens": batch_spec,
            "head": stored(head),
        }
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(by_token(hidden), stored(head), by_token(batch), stored(heads)),
            out_specs=tuple(specs[name] for name in results),
            check_vma=False,
        )(*arguments)

    def columns(self, vocabulary: int, shared: int) -> tuple[Columns, int]:
        parts = self._size(self.vocabulary)
        if parts == 1:
            return super().columns(vocabulary, shared)
        size = -(-vocabulary // parts)
        # Rounded up to full TPU tiles, where that adds little.
        size = round_up(size, 128) if size >= 1024 else size
        number = reduce(
            lambda index, axis: index * self.mesh.shape[axis] + lax.axis_index(axis),
            self._splits,
            jnp.zeros((), jnp.int32),
        )
        padded = size * parts > vocabulary
        return Columns(vocabulary, number * size, padded, self._splits), size

    def tokens_in(self, tree: Any) -> Any:
        if not self._groups:
            return tree
        return jax.tree.map(lambda x: lax.all_gather(x, self._groups, tiled=True), tree)

    def tokens_out(self, d_hidden: Array) -> Array:
        if self._groups:
            d_hidden = lax.psum_scatter(d_hidden, self._groups, tiled=True)
        return self._sum(d_hidden, set(self.vocabulary) - set(self._groups))

    def local_tokens(self, x: Array) -> Array:
        for axis in self._groups:
            x = self._part(x, axis, 0)
        return x

    def rows_in(self, head: Array, size: int, width: int) -> Array:
        head = _to_rows(head, size * self._size(self.vocabulary))
        for axis, stored in self._moves(width):
            if axis not in self.vocabulary:
                head = lax.all_gather(head, axis, axis=1, tiled=True)
            elif stored:
                head = lax.all_to_all(head, axis, 0, 1, tiled=True)
            else:
                head = self._part(head, axis, 0)
        return head

    def rows_out(self, d_head: Array, like: Array) -> Array:
        moves = self._moves(d_head.shape[1])
        for axis, stored in reversed(moves):
            if axis not in self.vocabulary and axis in self.tokens:
                d_head = lax.psum_scatter(d_head, axis, scatter_dimension=1, tiled=True)
            elif axis not in self.vocabulary:
                d_head = self._part(d_head, axis, 1)
            elif stored:
                d_head = lax.all_to_all(d_head, axis, 1, 0, tiled=True)
            else:
                d_head = lax.all_gather(d_head, axis, tiled=True)
        # Last, when it is smallest: the sum over token axes that no move has reduced.
        moved = {axis for axis, _ in moves}
        return _to_rows(self._sum(d_head, set(self.tokens) - moved), like.shape[0])

    def total(self, sums: Any, shares: Any) -> Any:
        tokens, vocabulary = set(self.tokens), set(self.vocabulary)
        summed = jax.tree.map(lambda x: self._sum(x, tokens - vocabulary), sums)
        return summed | jax.tree.map(
            lambda x: self._sum(x, tokens | vocabulary), shares
        )

    def trips(self, count: Array) -> Array:
        # Devices that share a vocabulary have the same tokens and so the same count;
        # with one number for all devices, their collectives stay aligned.
        axes = self._several(self.mesh.axis_names)
        return lax.pmax(count, axes) if axes else count

    @property
    def _groups(self) -> Axes:
        """Token axes of a vocabulary group, within which tokens are gathered."""
        return self._several(a for a in self.tokens if a in self.vocabulary)

    @property
    def _splits(self) -> Axes:
        """Vocabulary axes, the slowest first, as they split the rows."""
        stored = [axis for axis in reversed(self._width) if axis in self.vocabulary]
        return (*(a for a in self.vocabulary if a not in self._width), *stored)

    @property
    def _width(self) -> Axes:
        return tuple(
            axis
            for entry in self.width
            for axis in ((entry,) if isinstance(entry, str) else entry)
        )

    def _moves(self, width: int) -> list[tuple[str, bool]]:
        """Axes in the order in which they reshard a stored head, each with True if the
        head is stored over it.

        The last axis of the width is the first, so that adjacent columns are joined.
        """
        stored = self.stored(width)
        rows_only = [axis for axis in self.vocabulary if axis not in self._width]
        moving = [
            axis
            for axis in reversed(self._width)
            if axis in stored or axis in self.vocabulary
        ]
        moves = self._several((*rows_only, *moving))
        return [(axis, axis in stored) for axis in moves]

    def _several(self, axes: Iterable[str]) -> Axes:
        """The axes with several devices: a CPU copies arrays for collectives of one."""
        return tuple(axis for axis in axes if self.mesh.shape[axis] > 1)

    def _size(self, axes: Axes) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def _sum(self, x: Array, axes: set[str]) -> Array:
        ordered = self._several(a for a in self.mesh.axis_names if a in axes)
        return lax.psum(x, ordered) if ordered else x

    def _part(self, x: Array, axis: str, dimension: int) -> Array:
        size = x.shape[dimension] // self.mesh.shape[axis]
        first = lax.axis_index(axis) * size
        return lax.dynamic_slice_in_dim(x, first, size, dimension)


def _to_rows(head: Array, rows: int) -> Array:
    """Truncate a head, or pad it with zeros, to `rows` rows."""
    return jnp.pad(head[:rows], [(0, max(0, rows - head.shape[0])), (0, 0)])
