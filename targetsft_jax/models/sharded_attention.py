"""Attention kernels on a mesh, which shards rows, queries and heads."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.models import kernels
from targetsft_jax.models.attention import SelfAttention
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.query_share import MakeQueryShare
from targetsft_jax.parallel.mesh import TOKENS, platform
from targetsft_jax.parallel.zigzag import in_slot_order, zigzag_slots

_HEADS = P(*TOKENS, "tensor")


def mesh_attend(
    name: str, config: DecoderConfig, mesh: Mesh, length: int, dtype: DTypeLike
) -> SelfAttention | None:
    """Attention of a training step; None for the decoder's portable attention.

    In the notation of the scaling book, query[B_{data,fsdp}, T_context, H_tensor, d],
    and key, value and output likewise. The partitioner cannot look into a kernel and
    would gather its operands, so `shard_map` runs it on each device's rows, queries and
    heads.

    Args:
        name: one of `kernels.CHOICES`.
        config: the decoder; length: tokens per row; dtype: of the forward pass.
        mesh: the (data, fsdp, context, tensor) mesh; with more than one device on
            context, rows are in zig-zag order (see `parallel.zigzag`).

    Raises:
        ValueError: the kernel does not support the model; the message names one that
            does. The context axis does not divide the rows.
    """
    context = mesh.shape["context"]
    zigzag_slots(length, context)
    supported = kernels.choose(name, platform(mesh), config, length, dtype, context)
    if supported == "xla" and context == 1:
        return None
    kernel = kernels.KERNELS[supported]
    if supported == "blockwise":
        # Products of XLA, which the partitioner splits like those of `xla`.
        return kernel.attend
    repeats = kernels.kv_repeats(config, mesh.shape["tensor"], context)
    sharded = _of_rows(kernel.attend, mesh)
    if context > 1:
        assert kernel.share is not None
        sharded = _of_query_shares(kernel.share, mesh, length)

    def repeated(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        *segments: jax.Array,
        **how: Any,
    ) -> jax.Array:
        key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
        return sharded(query, key, value, *segments, **how)

    return repeated


def _of_rows(attend: SelfAttention, mesh: Mesh) -> SelfAttention:
    """Attention of each device's rows and heads."""

    def sharded(*arrays: jax.Array, **options: Any) -> jax.Array:
        return jax.shard_map(
            lambda *arrays: attend(*arrays, **options),
            mesh=mesh,
            in_specs=(_HEADS, _HEADS, _HEADS, TOKENS),
            out_specs=_HEADS,
            check_vma=False,
        )(*arrays)

    return sharded


def _of_query_shares(make: MakeQueryShare, mesh: Mesh, length: int) -> SelfAttention:
    """Attention of each device's queries to all keys, which are all-gathered.

    The transpose of the gathering is a reduce-scatter of their gradients.
    """
    context, tensor = mesh.shape["context"], mesh.shape["tensor"]
    slots = zigzag_slots(length, context)

    def sharded(query: jax.Array, *arrays: jax.Array, **options: Any) -> jax.Array:
        share = make(slots, mesh, query.shape[2] // tensor, **options)

        def local(
            tables: Any,
            query: jax.Array,
            key: jax.Array,
            value: jax.Array,
            segments: jax.Array,
        ) -> jax.Array:
            key, value, key_segments = (
                in_slot_order(lax.all_gather(x, "context", axis=1, tiled=True), context)
                for x in (key, value, segments)
            )
            return share.attend(tables, query, key, value, segments, key_segments)

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(share.specs, _HEADS, _HEADS, _HEADS, TOKENS),
            out_specs=_HEADS,
            check_vma=False,
        )(share.tables, query, *arrays)

    return sharded
