"""Attention kernels on a mesh: rows over data and fsdp, heads over tensor."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.models import kernels
from targetsft_jax.models.attention import SelfAttention
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import TOKENS, platform


def mesh_attend(
    name: str, config: DecoderConfig, mesh: Mesh, length: int, dtype: DTypeLike
) -> SelfAttention | None:
    """Attention of a training step; None for the decoder's portable attention.

    In the notation of the scaling book, query[B_{data,fsdp}, T, H_tensor, d], and
    key, value and output likewise. The partitioner cannot look into a kernel
    and would gather its operands, so `shard_map` runs it on each device's rows and
    heads.

    Args:
        name: one of `kernels.CHOICES`.
        config: the decoder; length: tokens per row; dtype: of the forward pass.
        mesh: the (data, fsdp, context, tensor) mesh.

    Raises:
        ValueError: the kernel does not support the model; the message names one that
            does.
    """
    supported = kernels.choose(name, platform(mesh), config, length, dtype)
    if supported == "xla":
        return None
    attend = kernels.KERNELS[supported].attend
    repeats = kernels.kv_repeats(config, mesh.shape["tensor"])
    heads = P(*TOKENS, "tensor")

    def sharded(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array,
        **options: Any,
    ) -> jax.Array:
        key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
        return jax.shard_map(
            lambda *arrays: attend(*arrays, **options),
            mesh=mesh,
            in_specs=(heads, heads, heads, TOKENS),
            out_specs=heads,
            check_vma=False,
        )(query, key, value, segment_ids)

    return sharded
