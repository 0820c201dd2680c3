"""An attention kernel on a mesh: rows over data and fsdp, heads over tensor."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from targetsft_jax.models import kernels
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import ROWS, platform


def mesh_attend(
    name: str, config: DecoderConfig, mesh: Mesh, length: int, dtype
) -> kernels.Attend | None:
    """The attention of a training step; None for the decoder's own, portable one.

    A kernel is opaque to the partitioner, which would gather its operands: so each
    device runs it on its own rows and heads.

    Args:
        name: one of `kernels.CHOICES`.
        config: the decoder; length: tokens in a row; dtype: of the forward pass.
        mesh: the (data, fsdp, tensor) mesh.

    Raises:
        ValueError: the kernel cannot serve these; names the one that can.
    """
    chosen = kernels.choose(name, platform(mesh), config, length, dtype)
    if chosen == "xla":
        return None
    attend = kernels.KERNELS[chosen].attend
    repeats = kernels.kv_repeats(config, mesh.shape["tensor"])
    heads = P(*ROWS, None, "tensor")

    def run(query, key, value, segment_ids, **how):
        key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
        on_devices = jax.shard_map(
            functools.partial(attend, **how),
            mesh=mesh,
            in_specs=(heads, heads, heads, P(*ROWS)),
            out_specs=heads,
            check_vma=False,
        )
        return on_devices(query, key, value, segment_ids)

    return run
