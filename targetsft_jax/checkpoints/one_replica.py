"""Read a training state in the processes of one data-parallel replica alone.

Every replica holds the same parameters. From an object store, and for large states, one
of them reads, and broadcasts to the others over the network between the devices.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.verification import StateReader, attempt
from targetsft_jax.parallel.broadcast import (
    broadcast,
    can_broadcast,
    first_replica,
    is_in,
    on_replica,
)
from targetsft_jax.storage.location import Location, commits_by_file

LARGE_BYTES = 2**30
"""State on a file system from which on one replica reads it."""


def read_state(
    reader: StateReader, folder: Location, step: int, like: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Read `params` and `optimizer` of a checkpoint; all processes must call this.

    Args:
        reader: reader of the folder.
        folder: folder of the checkpoints.
        step: step of the checkpoint.
        like: arrays or ShapeDtypeStructs with the shardings to restore to.

    Returns:
        (arrays, reason), as `attempt` returns them.
    """
    replica = _reading_replica(folder, like)
    if replica is None:
        return attempt(partial(reader.arrays, step, like))
    part = {name: on_replica(like[name], replica) for name in ("params", "optimizer")}
    if is_in(replica):
        arrays, reason = attempt(partial(reader.arrays, step, part))
    else:
        arrays, reason = attempt(lambda: part)
    if reason:
        return arrays, reason
    leaves = jax.tree.leaves(part)
    mesh = next(iter(jax.tree.leaves(like))).sharding.mesh
    print(
        f"checkpoint {step}: {len(leaves)} arrays were read by one of "
        f"{mesh.shape['data']} data-parallel replicas, which sends them to the others"
    )
    return broadcast(arrays, {name: like[name] for name in part}), ""


def _reading_replica(folder: Location, like: Mapping[str, Any]) -> Mesh | None:
    """Mesh of the replica that reads for all; None if each reads its own part."""
    leaves = jax.tree.leaves(dict(like))
    size = sum(x.size * x.dtype.itemsize for x in leaves)
    if not can_broadcast(leaves) or (
        size < LARGE_BYTES and not commits_by_file(folder)
    ):
        return None
    return first_replica(leaves[0].sharding.mesh)
