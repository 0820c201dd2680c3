"""Splash attention of jax for TPU: block-sparse; memory grows with T.

It computes the blocks that its mask does not empty, and reads the mask at compile time:
blocks of other segments are computed, too.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.models.query_share import QueryShare
from targetsft_jax.models.remat import ATTENTION


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attention of all queries of the rows (see `attention.SelfAttention`)."""
    length, heads = query.shape[1:3]
    kernel = _kernel(np.arange(length), 1, heads, window, softcap, interpret)
    return _attend(scale, kernel, query, key, value, segment_ids, segment_ids)


def splash_share(
    slots: np.ndarray,
    mesh: Mesh,
    heads: int,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> QueryShare:
    """Attention of a share of the queries (see `query_share.MakeQueryShare`)."""
    devices = mesh.shape["context"]
    kernel = _kernel(slots, devices, heads, window, softcap, interpret)
    specs = kernel.manual_sharding_spec(NamedSharding(mesh, P(None, "context")))
    return QueryShare(kernel, specs, partial(_attend, scale))


def block_size(length: int, largest: int) -> int:
    """Largest power of two that divides the length, at most `largest`."""
    return min(largest, length & -length)


def _kernel(
    slots: np.ndarray,
    devices: int,
    heads: int,
    window: int | None,
    softcap: float | None,
    interpret: bool,
) -> Any:
    """Kernel of `heads` heads, whose queries sit in `slots`, shared by `devices`."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    length = len(slots)
    # A device has two chunks of queries; a block of both would be empty less often.
    rows = block_size(length if devices == 1 else length // (2 * devices), 512)
    columns = block_size(length, 512)
    sizes = kernels.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    head_mask: Any
    if window is None:
        head_mask = kernels.CausalMask((length, length))
    else:
        head_mask = kernels.LocalMask((length, length), (window - 1, 0), 0)
    head_mask.q_sequence = slots.astype(np.int32)
    # Evaluated eagerly: under a trace, the tables of the kernel would become tracers.
    with jax.ensure_compile_time_eval():
        return kernels.make_splash_mha(
            kernels.MultiHeadMask([head_mask] * heads),
            head_shards=1,
            q_seq_shards=devices,
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            interpret=interpret,
            residual_checkpoint_name=ATTENTION,
        )


def _attend(
    scale: float | None,
    kernel: Any,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    key_segment_ids: jax.Array,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    def attend_row(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segments: jax.Array,
        key_segments: jax.Array,
    ) -> jax.Array:
        return kernel(query, key, value, kernels.SegmentIds(segments, key_segments))

    # The kernel does not scale, and takes heads before the sequence.
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scaled = (query * scale).astype(query.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (scaled, key, value))
    mixed = jax.vmap(attend_row)(q, k, v, segment_ids, key_segment_ids)
    return jnp.swapaxes(mixed, 1, 2)
