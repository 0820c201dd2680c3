"""The fused loss over a mesh: tokens over some axes, the vocabulary over others.

Left to the partitioner, the loop over chunks would gather all tokens to every device
or reduce ∂head in every chunk. Here each device loops over its group's tokens with its
share of the vocabulary. Before the loop, a head moves from how it is stored (columns
of the model width) to rows of the vocabulary, and tokens to all of their group; after
it, ∂head and ∂hidden move back, each reduced once. In the loop only the statistics of
a chunk's rows meet, in one all-gather.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from targetsft_jax.loss.fused import Layout, round_up
from targetsft_jax.loss.tile import Columns
from targetsft_jax.parallel.rules import prefix_that_divides

P = PartitionSpec
Axes = tuple[str, ...]


@dataclass(frozen=True)
class MeshLayout(Layout):
    """Tokens and vocabulary on the axes of a mesh.

    An axis may be in both `tokens` and `vocabulary`: its devices then exchange their
    tokens, and each takes all of them through its share of the vocabulary.

    Attributes:
        mesh: the devices.
        tokens: axes that the batch is spread over, the slowest first.
        vocabulary: axes that the heads' rows are split over in the loop.
        width: axes that heads [V, D] are stored over, on D, the slowest first: as
            many of them, from the first on, as divide D. Axes in a tuple of their own
            go together.
    """

    mesh: Mesh
    tokens: Axes
    vocabulary: Axes = ()
    width: tuple[str | Axes, ...] = ()

    def stored(self, width: int) -> Axes:
        """The axes that a head of some width is stored over."""
        return prefix_that_divides(width, self.width, self.mesh.shape)

    def run(
        self, local: Callable[..., Any], results: tuple[str, ...], *arguments: Any
    ) -> Any:
        def spread(tree: Any) -> Any:
            return jax.tree.map(lambda _: P(self.tokens), tree)

        def stored(tree: Any) -> Any:
            return jax.tree.map(lambda x: P(None, self.stored(x.shape[1])), tree)

        hidden, head, batch, heads = arguments
        places = {
            "everywhere": P(),
            "tokens": P(self.tokens),
            "head": stored(head),
        }
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(spread(hidden), stored(head), spread(batch), stored(heads)),
            out_specs=tuple(places[name] for name in results),
            check_vma=False,
        )(*arguments)

    def columns(self, vocabulary: int, shared: int) -> tuple[Columns, int]:
        parts = self._size(self.vocabulary)
        if parts == 1:
            return super().columns(vocabulary, shared)
        size = -(-vocabulary // parts)
        # Whole tiles of a TPU, where that adds little.
        size = round_up(size, 128) if size >= 1024 else size
        number = reduce(
            lambda index, axis: index * self.mesh.shape[axis] + lax.axis_index(axis),
            self._splits,
            jnp.zeros((), jnp.int32),
        )
        padded = size * parts > vocabulary
        return Columns(vocabulary, number * size, padded, self._splits), size

    def tokens_in(self, tree: Any) -> Any:
        if not self._met:
            return tree
        return jax.tree.map(lambda x: lax.all_gather(x, self._met, tiled=True), tree)

    def tokens_out(self, d_hidden: Array) -> Array:
        if self._met:
            d_hidden = lax.psum_scatter(d_hidden, self._met, tiled=True)
        return self._sum(d_hidden, set(self.vocabulary) - set(self._met))

    def own_tokens(self, x: Array) -> Array:
        for axis in self._met:
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
        # Last, when it is smallest: the sum over tokens that no move has summed over.
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
        # one number for all keeps the whole program in step.
        return lax.pmax(count, self.mesh.axis_names)

    @property
    def _met(self) -> Axes:
        """Token axes whose devices exchange their tokens."""
        return tuple(axis for axis in self.tokens if axis in self.vocabulary)

    @property
    def _splits(self) -> Axes:
        """The vocabulary axes in the order that rows are split by them."""
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
        """Axes in the order that a stored head is taken apart by, and if it is on them.

        The last of the axes that it is stored over comes first: that way the columns
        that meet are neighbours.
        """
        stored = self.stored(width)
        other = [axis for axis in self.vocabulary if axis not in self._width]
        own = [a for a in reversed(self._width) if a in stored or a in self.vocabulary]
        return [(axis, axis in stored) for axis in (*other, *own)]

    def _size(self, axes: Axes) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def _sum(self, x: Array, axes: set[str]) -> Array:
        ordered = tuple(axis for axis in self.mesh.axis_names if axis in axes)
        return lax.psum(x, ordered) if ordered else x

    def _part(self, x: Array, axis: str, dimension: int) -> Array:
        size = x.shape[dimension] // self.mesh.shape[axis]
        first = lax.axis_index(axis) * size
        return lax.dynamic_slice_in_dim(x, first, size, dimension)


def _to_rows(head: Array, rows: int) -> Array:
    """Cut, or filled with zeros, to a number of rows."""
    return jnp.pad(head[:rows], [(0, max(0, rows - head.shape[0])), (0, 0)])
