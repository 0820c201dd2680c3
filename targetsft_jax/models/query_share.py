"""Attention of a share of a row's queries to all of its keys, on a context axis.

Each device has the queries of its tokens, in zig-zag order (see `parallel.zigzag`), and
all keys and values in the order of their slots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from targetsft_jax.models.attention import attend
from targetsft_jax.models.remat import ATTENTION

LocalAttention = Callable[
    [Any, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array
]
"""Attention on one device of the context axis, (tables, query, key, value, segment_ids,
key_segment_ids) -> [B, T, H, d]: of queries [B, T, H, d] with their segment ids [B, T]
to keys and values [B, L, K, d] with theirs, [B, L], in slot order."""


class QueryShare(NamedTuple):
    """A kernel for the queries of one device.

    Attributes:
        tables: arrays that differ between the devices of the context axis.
        specs: their partitions.
        attend: the function of one device, of its part of the tables.
    """

    tables: Any
    specs: Any
    attend: LocalAttention


class MakeQueryShare(Protocol):
    """Factory of a `QueryShare`."""

    def __call__(
        self,
        slots: np.ndarray,
        mesh: Mesh,
        heads: int,
        *,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> QueryShare:
        """Prepare the attention of rows in zig-zag order.

        Args:
            slots: [L] int32, slot of each query; the context axis shards it.
            mesh: the (data, fsdp, context, tensor) mesh.
            heads: query heads of one device.
            window, scale, softcap: as in `attention.SelfAttention`.
        """
        ...


def xla_share(
    slots: np.ndarray,
    mesh: Mesh,
    heads: int,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> QueryShare:
    """Portable attention, for every platform; memory grows with T · L."""

    def local(
        slots: jax.Array,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array,
        key_segment_ids: jax.Array,
    ) -> jax.Array:
        mixed = attend(
            query,
            key,
            value,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            start=slots,
            window=window,
            scale=scale,
            softcap=softcap,
        )
        return checkpoint_name(mixed, ATTENTION)

    return QueryShare(slots, P("context"), local)
