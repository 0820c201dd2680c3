"""Read sharded parameters from checkpoint tensors, a bounded piece at a time."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from targetsft_jax.hf.tensor_files import DTYPES, StoredTensor
from targetsft_jax.hf.tensor_map import ParameterSlice

THREADS = 4
"""Number of reader threads; each holds one piece."""

PIECE_BYTES = 64 * 2**20
"""Bytes of a tensor read from a file at once, rounded down to rows, at least one."""

STAGED_BYTES = 256 * 2**20
"""Largest local shards of a parameter that are assembled on the host."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint tensor and its parameter slice."""

    key: str
    tensor: StoredTensor
    part: ParameterSlice


def read_parameter(
    sources: list[Source],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: jax.sharding.Sharding,
    pool: Executor,
    non_finite: dict[str, int],
) -> jax.Array:
    """Read a parameter as a global array; reads the slices of this process's devices.

    Small parameters, up to `STAGED_BYTES`, are assembled on the host. For larger ones
    the host holds a few pieces in transit to arrays that are already on the devices.
    Arrays of a CPU are host memory and are written directly.

    Args:
        sources: its tensors, each of a dtype in `DTYPES`.
        shape, dtype, sharding: those of the result.
        pool: executor for reads and casts.
        non_finite: tensor key -> count of NaN and infinite values; updated.
    """
    # Devices with the same slice share one read.
    devices: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
        devices.setdefault(bounds, []).append(device)
    sizes = [_extent(bounds) for bounds in devices]
    local_bytes = sum(map(math.prod, sizes)) * dtype.itemsize
    on_host = {str(device.platform) for device in _devices(sharding)} == {"cpu"}
    shard_class = _HostShard if local_bytes <= STAGED_BYTES or on_host else _DeviceShard
    shards: list[_Shard] = [
        shard_class(bounds, dtype, replicas) for bounds, replicas in devices.items()
    ]
    for piece, key, count in _prefetched(pool, _pieces(sources, shards, dtype)):
        assert piece.values is not None
        piece.shard.write(piece.start, piece.values)
        if count:
            non_finite[key] = non_finite.get(key, 0) + count
    arrays = dict(itertools.chain.from_iterable(shard.arrays() for shard in shards))
    order = sharding.addressable_devices_indices_map(shape)
    return jax.make_array_from_single_device_arrays(
        shape, sharding, [arrays[device] for device in order]
    )


@np.errstate(over="ignore")  # overflow becomes infinity, which is counted
def cast_into(target: np.ndarray, source: np.ndarray, *, transposed: bool) -> None:
    """Copy `source`, or its transpose, into `target` and cast to its dtype."""
    if not transposed:
        target[...] = source
        return
    # A few rows at a time, so that they stay in the cache while they are transposed.
    for row in range(0, len(source), 16):
        rows = source[row : row + 16]
        target[:, row : row + 16] = rows.astype(target.dtype).T


Bounds = tuple[tuple[int, int], ...]
"""Start and stop of a slice on every axis."""


class _Shard(Protocol):
    """A slice of a parameter on this process's devices."""

    bounds: Bounds

    def buffer(self, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        """Host memory for the values of a piece."""

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        """Write the values of a piece, from its buffer."""

    def arrays(self) -> Iterable[tuple[jax.Device, jax.Array]]:
        """The slice on each device."""


class _HostShard:
    """Slice assembled in host memory."""

    def __init__(
        self, bounds: Bounds, dtype: np.dtype, devices: list[jax.Device]
    ) -> None:
        self.bounds, self.devices = bounds, devices
        self.values = _aligned(_extent(bounds), dtype)

    def buffer(self, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        return self.values[tuple(slice(a, a + n) for a, n in zip(start, shape))]

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        pass  # the buffer is part of the slice

    def arrays(self) -> Iterable[tuple[jax.Device, jax.Array]]:
        return [
            (device, jax.device_put(self.values, device)) for device in self.devices
        ]


class _DeviceShard:
    """Slice allocated on its devices and written piece by piece."""

    def __init__(
        self, bounds: Bounds, dtype: np.dtype, devices: list[jax.Device]
    ) -> None:
        self.bounds, self.dtype = bounds, dtype
        self.on = {d: jnp.zeros(_extent(bounds), dtype, device=d) for d in devices}

    def buffer(self, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, self.dtype)

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        offsets = tuple(np.int32(number) for number in start)
        for device, array in self.on.items():
            # Pieces must not queue up faster than the device accepts them.
            array.block_until_ready()
            piece = jax.device_put(values, device)
            self.on[device] = _write_piece(array, piece, offsets)

    def arrays(self) -> Iterable[tuple[jax.Device, jax.Array]]:
        return self.on.items()


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Uninitialized memory, aligned so that a CPU device can use it without a copy."""
    size, alignment = math.prod(shape) * dtype.itemsize, 64
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(dtype).reshape(shape)


@jax.jit(donate_argnums=0)
def _write_piece(
    array: jax.Array, piece: jax.Array, start: tuple[np.int32, ...]
) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, piece, start)


@dataclasses.dataclass
class _Piece:
    """Rows of a tensor for one shard.

    Attributes:
        source: the tensor.
        rows, columns: the part of the tensor; columns are all further axes.
        shard, start: the shard, and the offsets of the part in it.
        last: True if no later piece needs these rows.
        values: the part in the shape of the shard; set by `read`.
    """

    source: Source
    rows: tuple[int, int]
    columns: tuple[slice, ...]
    shard: _Shard
    start: tuple[int, ...]
    last: bool
    values: np.ndarray | None = None

    def read(self) -> tuple["_Piece", str, int]:
        """Read the values; returns (piece, tensor key, count of non-finite values)."""
        tensor, part = self.source.tensor, self.source.part
        stored = tensor.rows(*self.rows)[(slice(None), *self.columns)]
        shape = stored.shape[::-1] if part.transposed else stored.shape
        leading = len(part.index)
        self.values = self.shard.buffer(self.start, (1,) * leading + shape)
        values = self.values[(0,) * leading]
        cast_into(values, stored, transposed=part.transposed)
        if self.last:
            tensor.release(*self.rows)
        return self, self.source.key, _count_non_finite(values)


def _pieces(
    sources: list[Source], shards: list[_Shard], dtype: np.dtype
) -> Iterator[_Piece]:
    """All pieces of a parameter, in file order, so that rows are read once."""
    for source in sources:
        shape, part = source.tensor.shape, source.part
        itemsize = max(dtype.itemsize, DTYPES[source.tensor.dtype].itemsize)
        step = max(1, PIECE_BYTES // (math.prod(shape[1:]) * itemsize))
        first, stop = part.rows or (0, shape[0])
        for row in range(first, stop, step):
            pieces = [
                _piece(source, (row, min(row + step, stop)), shard)
                for shard in shards
                if all(a <= n < b for n, (a, b) in zip(part.index, shard.bounds))
            ]
            pieces = [piece for piece in pieces if piece.rows[0] < piece.rows[1]]
            for number, piece in enumerate(pieces, 1):
                piece.last = number == len(pieces)
                yield piece


def _piece(source: Source, rows: tuple[int, int], shard: _Shard) -> _Piece:
    """Intersection of rows of a tensor with a shard."""
    part = source.part
    inner = shard.bounds[len(part.index) :]
    (first, stop), *others = inner[::-1] if part.transposed else inner
    base = part.rows[0] if part.rows else 0  # the parameter's first row in the tensor
    rows = (max(rows[0], base + first), min(rows[1], base + stop))
    start = [rows[0] - base - first, *(0 for _ in others)]
    start = start[::-1] if part.transposed else start
    leading = [n - a for n, (a, _) in zip(part.index, shard.bounds)]
    columns = tuple(slice(*bound) for bound in others)
    return _Piece(source, rows, columns, shard, (*leading, *start), last=False)


def _count_non_finite(values: np.ndarray) -> int:
    """Number of NaN and infinite values."""
    if values.dtype == ml_dtypes.bfloat16:  # all ones in the exponent
        return int(np.count_nonzero(values.view(np.uint16) & 0x7F80 == 0x7F80))
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def _devices(sharding: jax.sharding.Sharding) -> set[Any]:
    return sharding.device_set


def _extent(bounds: Bounds) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in bounds)


def _prefetched(
    pool: Executor, pieces: Iterator[_Piece]
) -> Iterator[tuple[_Piece, str, int]]:
    """Read pieces in the pool and yield them in order, at most `THREADS` at a time."""
    pending: collections.deque[Future] = collections.deque()
    for piece in pieces:
        pending.append(pool.submit(piece.read))
        if len(pending) == THREADS:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
