"""Broadcast of arrays from the first data-parallel replica of a mesh to all of them.

Storage is read once instead of once per replica; the network between the devices, which
carries the gradients of every step, does the rest.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_AXIS = "data"
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def first_replica(mesh: Mesh) -> Mesh | None:
    """Mesh of the first replica, from which arrays can be broadcast.

    None if there is only one replica, or if a process has devices of several: it would
    read the replica for its other devices, too.
    """
    axis = mesh.axis_names.index(_AXIS)
    replicas = np.moveaxis(mesh.devices, axis, 0)
    processes = [{d.process_index for d in replica.flat} for replica in replicas]
    if len(replicas) == 1 or len(set().union(*processes)) < sum(map(len, processes)):
        return None
    devices = np.take(mesh.devices, [0], axis)
    return Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types)


def is_in(mesh: Mesh) -> bool:
    """True if this process has devices of a mesh."""
    return any(d.process_index == jax.process_index() for d in mesh.devices.flat)


def on_replica(like: Any, replica: Mesh) -> Any:
    """Abstract arrays on the first replica, for reading.

    Args:
        like: tree of arrays or ShapeDtypeStructs on the whole mesh, whose shardings do
            not use its data axis.
        replica: from `first_replica`.
    """

    def abstract(x: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(replica, x.sharding.spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(abstract, like)


def can_broadcast(like: Any) -> bool:
    """True if every array is sharded over a mesh, and equal on its replicas."""
    return all(
        isinstance(x.sharding, NamedSharding)
        and _AXIS not in jax.tree.leaves(tuple(x.sharding.spec))
        and jnp.dtype(x.dtype).itemsize in _UNSIGNED
        for x in jax.tree.leaves(like)
    )


def broadcast(tree: Any, like: Any) -> Any:
    """Copy arrays of the first replica to all replicas, bit for bit, one at a time.

    All processes must call it.

    Args:
        tree: arrays on the first replica, which are deleted; in processes without its
            devices any tree of that structure.
        like: tree of arrays or ShapeDtypeStructs with the shardings on the whole mesh.
    """
    return jax.tree.map(_broadcast, like, tree)


def _broadcast(like: Any, source: Any) -> jax.Array:
    mesh, spec = like.sharding.mesh, like.sharding.spec
    # One entry per replica; all but the first are zeros, so that the sum is the first.
    shape = (mesh.shape[_AXIS], *like.shape)
    sharding = NamedSharding(mesh, P(_AXIS, *spec))
    parts: Mapping[Any, jax.Array] = {}
    if isinstance(source, jax.Array):
        parts = {s.device: _bits(s.data)[None] for s in source.addressable_shards}
    zeros = sharding.shard_shape(shape)
    buffers = [
        parts[device]
        if device in parts
        else jnp.zeros(zeros, jnp.uint32, device=device)
        for device in sharding.addressable_devices_indices_map(shape)
    ]
    stacked = jax.make_array_from_single_device_arrays(shape, sharding, buffers)
    if isinstance(source, jax.Array):
        source.delete()
    dtype = jnp.dtype(like.dtype)
    total = jax.jit(_sum, static_argnums=1, out_shardings=like.sharding)
    return jax.block_until_ready(total(stacked, dtype))


def _bits(x: jax.Array) -> jax.Array:
    """Bits of the elements as uint32: a sum of floats would lose the sign of −0."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = _UNSIGNED[x.dtype.itemsize]
    return lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _sum(stacked: jax.Array, dtype: Any) -> jax.Array:
    bits = jnp.sum(stacked, axis=0, dtype=jnp.uint32)
    if dtype == jnp.bool_:
        return bits.astype(jnp.bool_)
    return lax.bitcast_convert_type(bits.astype(_UNSIGNED[dtype.itemsize]), dtype)
