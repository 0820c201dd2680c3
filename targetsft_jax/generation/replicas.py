"""Replicas of a model on a mesh, each of which samples completions of its own.

Devices that together hold all parameters are a replica. Replicas share a queue, so that
none waits for the completions of another, and no step crosses between them. Where a
replica spans processes, the mesh is one replica, and all processes run it in step.
"""

import json
import math
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from targetsft_jax.generation.rows import Batch, Completion, Item, Work
from targetsft_jax.models.unstacked import Weights
from targetsft_jax.parallel import preemption
from targetsft_jax.parallel.processes import gather_bytes


@dataclass(frozen=True)
class Replica:
    """Parameters on some devices.

    Attributes:
        weights: the parameters.
        row_sharding: sharding of the rows over these devices; None for no constraint.
        device: the device, if there is one.
    """

    weights: Weights
    row_sharding: NamedSharding | None
    device: jax.Device | None = None

    @property
    def shards(self) -> int:
        """Number of shards of the rows."""
        return shards_of(self.row_sharding)


def shards_of(row_sharding: NamedSharding | None) -> int:
    """Number of shards of the rows."""
    if row_sharding is None:
        return 1
    sizes = row_sharding.mesh.shape
    return math.prod(sizes[axis] for axis in _row_axes(row_sharding))


def replicas_of(
    weights: Weights, row_sharding: NamedSharding | None
) -> tuple[list[Replica], int]:
    """Replicas of this process, and their number in all processes.

    Args:
        weights: parameters on a mesh or a device.
        row_sharding: its first axis spreads rows over the mesh; None: the devices of
            the parameters are one replica.
    """
    one = Replica(weights, row_sharding)
    if row_sharding is None:
        return [one], 1
    mesh = row_sharding.mesh
    assert isinstance(mesh, Mesh)
    leaves = jax.tree.leaves(weights)
    if any(leaf.sharding.mesh != mesh for leaf in leaves):
        return [one], 1
    used = {axis for leaf in leaves for axis in _axes_of(leaf.sharding.spec)}
    spread = [axis for axis in _row_axes(row_sharding) if axis not in used]
    inner = [axis for axis in mesh.axis_names if axis not in spread]
    order = [mesh.axis_names.index(axis) for axis in (*spread, *inner)]
    sizes = [mesh.shape[axis] for axis in inner]
    grids = [np.asarray(x) for x in mesh.devices.transpose(order).reshape(-1, *sizes)]
    if len(grids) == 1:
        return [one], 1
    for grid in grids:
        if len({device.process_index for device in grid.flat}) > 1:
            return [one], 1
    rows = tuple(axis for axis in _row_axes(row_sharding) if axis in inner)
    local = [
        grid for grid in grids if grid.flat[0].process_index == jax.process_index()
    ]
    return [_replica(weights, grid, inner, rows) for grid in local], len(grids)


def sampled(
    work: Work, replicas: list[Replica], total: int, rows: int
) -> Iterator[tuple[Item, Completion]]:
    """Sample all completions of the work, in every process.

    Args:
        work: what to sample.
        replicas: those of this process.
        total: their number in all processes.
        rows: rows of each.

    Yields:
        Every item and its completion, in the order in which they end; with several
        processes, those of others at the end.
    """
    groups = work.groups(total, replicas[0].shards)
    if len(replicas) == total:
        yield from _sampled_here(work, replicas, deque(groups), rows)
        return
    # Each process takes every n-th group; lengths are alike among them.
    share = groups[jax.process_index() :: jax.process_count()]
    results = [
        (*item, completion.tokens, completion.finished)
        for item, completion in _sampled_here(work, replicas, deque(share), rows)
    ]
    for text in gather_bytes(json.dumps(results).encode()):
        for prompt, sample, tokens, finished in json.loads(text):
            yield Item(prompt, sample), Completion(tokens, finished)


def _sampled_here(
    work: Work, replicas: list[Replica], groups: Any, rows: int
) -> Iterator[tuple[Item, Completion]]:
    """Sample with the replicas of this process, one thread for each."""
    if len(replicas) == 1:
        yield from _sampled_by(work, replicas[0], groups, rows, preemption.check)
        return
    results: SimpleQueue = SimpleQueue()
    ends = threading.Event()

    def check() -> None:
        if ends.is_set():
            raise RuntimeError("another replica has failed")

    def run(replica: Replica) -> None:
        try:
            for result in _sampled_by(work, replica, groups, rows, check):
                results.put(result)
        finally:
            results.put(None)

    with ThreadPoolExecutor(len(replicas)) as pool:
        futures = [pool.submit(run, replica) for replica in replicas]
        try:
            running = len(replicas)
            while running:
                result = results.get()
                preemption.check()
                if result is not None:
                    yield result
                    continue
                running -= 1
                for future in futures:
                    if future.done():
                        future.result()
        finally:
            ends.set()
        for future in futures:
            future.result()


def _sampled_by(
    work: Work, replica: Replica, groups: Any, rows: int, check: Any
) -> Iterator[tuple[Item, Completion]]:
    plan = replace(work.plan, row_sharding=replica.row_sharding)
    batch = Batch(replace(work, plan=plan), replica.weights, rows)
    device = replica.device
    with nullcontext() if device is None else jax.default_device(device):
        yield from batch.complete(groups, check)


def _replica(
    weights: Weights, grid: np.ndarray, inner: list[str], rows: tuple[str, ...]
) -> Replica:
    """The part of the weights on the devices of a grid; nothing is copied."""
    devices = set(grid.flat)
    if len(devices) == 1:

        def alone(leaf: jax.Array) -> jax.Array:
            [shard] = [x for x in leaf.addressable_shards if x.device in devices]
            return shard.data

        return Replica(jax.tree.map(alone, weights), None, grid.flat[0])
    mesh = Mesh(grid, inner, axis_types=(AxisType.Auto,) * len(inner))

    def part(leaf: jax.Array) -> jax.Array:
        assert isinstance(leaf.sharding, NamedSharding)
        shards = [x.data for x in leaf.addressable_shards if x.device in devices]
        sharding = NamedSharding(mesh, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)

    sharding = NamedSharding(mesh, PartitionSpec(rows)) if rows else None
    return Replica(jax.tree.map(part, weights), sharding)


def _row_axes(row_sharding: NamedSharding) -> tuple[str, ...]:
    return _axes_of(row_sharding.spec[:1])


def _axes_of(spec: Any) -> tuple[str, ...]:
    """Mesh axes of a partition."""
    parts = (part if isinstance(part, tuple) else (part,) for part in spec)
    return tuple(axis for part in parts for axis in part if axis)
