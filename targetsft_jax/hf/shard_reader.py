"""Fill one sharded parameter from checkpoint tensors, a bounded piece at a time."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import Executor

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from targetsft_jax.hf.families import Place
from targetsft_jax.hf.tensor_files import DTYPES, StoredTensor

THREADS = 4
"""Readers at work: each holds one piece."""

PIECE_BYTES = 64 * 2**20
"""The largest part of a tensor that is on its way from a file to a device."""

STAGED_BYTES = 256 * 2**20
"""A parameter whose local shards are no larger is put together on the host."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint tensor and where it belongs in a parameter."""

    key: str
    tensor: StoredTensor
    place: Place


def fill(
    sources: list[Source],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: jax.sharding.Sharding,
    pool: Executor,
    bad: dict[str, int],
) -> jax.Array:
    """One parameter as a global array; only slices of this process's devices are read.

    The host holds at most `STAGED_BYTES` of a small parameter, or, of a larger one,
    a few pieces on their way into arrays that lie on the devices already. A CPU's
    arrays are host memory: they are written where they stay.

    Args:
        sources: its tensors, each of a dtype in `DTYPES`.
        shape, dtype, sharding: of the result.
        pool: where files are read and values cast.
        bad: counts of NaN and infinite values by tensor, added to.
    """
    devices: dict[tuple, list] = {}  # devices that hold the same slice share one read
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
        devices.setdefault(bounds, []).append(device)
    sizes = [_extent(bounds) for bounds in devices]
    local_bytes = sum(map(math.prod, sizes)) * dtype.itemsize
    on_host = all(device.platform == "cpu" for device in sharding.device_set)
    staged = local_bytes <= STAGED_BYTES or on_host
    make = _StagedShard if staged else _PlacedShard
    shards = [make(bounds, dtype, held) for bounds, held in devices.items()]
    for piece, key, wrong in _ahead(pool, _pieces(sources, shards, dtype)):
        piece.shard.write(piece.start, piece.values)
        if wrong:
            bad[key] = bad.get(key, 0) + wrong
    arrays = dict(itertools.chain.from_iterable(shard.arrays() for shard in shards))
    order = sharding.addressable_devices_indices_map(shape)
    return jax.make_array_from_single_device_arrays(
        shape, sharding, [arrays[device] for device in order]
    )


@np.errstate(over="ignore")  # what overflows a dtype shows as not finite
def cast_into(values: np.ndarray, found: np.ndarray, *, transposed: bool) -> None:
    """Write an array into another one of its shape, or transposed, in its dtype."""
    if not transposed:
        values[...] = found
        return
    # A few rows at a time, so that what is read stays in the cache while it is written.
    for row in range(0, len(found), 16):
        part = found[row : row + 16]
        values[:, row : row + 16] = part.astype(values.dtype).T


class _StagedShard:
    """A slice put together in host memory."""

    def __init__(self, bounds, dtype, devices):
        self.bounds, self.devices = bounds, devices
        self.whole = _aligned(_extent(bounds), dtype)

    def room(self, start, shape):
        """Where the values of a piece are to be written."""
        return self.whole[tuple(slice(a, a + n) for a, n in zip(start, shape))]

    def write(self, start, values):
        pass  # they are in place

    def arrays(self):
        return [(device, jax.device_put(self.whole, device)) for device in self.devices]


class _PlacedShard:
    """A slice on its devices from the start, written piece by piece."""

    def __init__(self, bounds, dtype, devices):
        self.bounds, self.dtype = bounds, dtype
        self.on = {d: jnp.zeros(_extent(bounds), dtype, device=d) for d in devices}

    def room(self, start, shape):
        return np.empty(shape, self.dtype)

    def write(self, start, values):
        at = tuple(np.int32(number) for number in start)
        for device, whole in self.on.items():
            # Pieces must not pile up faster than the device takes them.
            whole.block_until_ready()
            self.on[device] = _write(whole, jax.device_put(values, device), at)

    def arrays(self):
        return self.on.items()


def _aligned(shape, dtype):
    """Empty memory that a CPU device takes over as it is, where others would copy."""
    size, step = math.prod(shape) * dtype.itemsize, 64
    raw = np.empty(size + step, np.uint8)
    start = -raw.ctypes.data % step
    return raw[start : start + size].view(dtype).reshape(shape)


@jax.jit(donate_argnums=0)
def _write(whole, part, at):
    return jax.lax.dynamic_update_slice(whole, part, at)


@dataclasses.dataclass
class _Piece:
    """Rows of a tensor that belong into one shard.

    Attributes:
        source: the tensor.
        rows, columns: what of it; columns are all further axes.
        shard, start: where its values go, `start` within the shard.
        last: no other shard needs these rows.
        values: set by `read`, shaped as in the shard.
    """

    source: Source
    rows: tuple[int, int]
    columns: tuple[slice, ...]
    shard: _StagedShard | _PlacedShard
    start: tuple[int, ...]
    last: bool
    values: np.ndarray | None = None

    def read(self) -> tuple["_Piece", str, int]:
        """The piece with its values, its tensor's key, and how many are not finite."""
        tensor, place = self.source.tensor, self.source.place
        found = tensor.rows(*self.rows)[(slice(None), *self.columns)]
        shape = found.shape[::-1] if place.transposed else found.shape
        stacked = place.layer is not None
        self.values = self.shard.room(self.start, (1, *shape) if stacked else shape)
        values = self.values[0] if stacked else self.values
        cast_into(values, found, transposed=place.transposed)
        if self.last:
            tensor.release(*self.rows)
        return self, self.source.key, _not_finite(values)


def _pieces(sources, shards, dtype) -> Iterator[_Piece]:
    """All pieces of a parameter, in the order of the file: rows are read once."""
    for source in sources:
        shape, place = source.tensor.shape, source.place
        itemsize = max(dtype.itemsize, DTYPES[source.tensor.dtype].itemsize)
        step = max(1, PIECE_BYTES // (math.prod(shape[1:]) * itemsize))
        first, stop = place.rows or (0, shape[0])
        for row in range(first, stop, step):
            cut = [
                _cut(source, (row, min(row + step, stop)), shard)
                for shard in shards
                if place.layer is None
                or shard.bounds[0][0] <= place.layer < shard.bounds[0][1]
            ]
            cut = [piece for piece in cut if piece.rows[0] < piece.rows[1]]
            for number, piece in enumerate(cut, 1):
                piece.last = number == len(cut)
                yield piece


def _cut(source, rows, shard):
    """What of these rows of a tensor lies in a shard."""
    place = source.place
    stacked = place.layer is not None
    inner = shard.bounds[1:] if stacked else shard.bounds
    (first, stop), *others = inner[::-1] if place.transposed else inner
    base = place.rows[0] if place.rows else 0  # of this parameter in the tensor
    rows = (max(rows[0], base + first), min(rows[1], base + stop))
    start = [rows[0] - base - first, *(0 for _ in others)]
    start = start[::-1] if place.transposed else start
    if stacked:
        start.insert(0, place.layer - shard.bounds[0][0])
    columns = tuple(slice(*bound) for bound in others)
    return _Piece(source, rows, columns, shard, tuple(start), last=False)


def _not_finite(values):
    """How many values are NaN or infinite."""
    if values.dtype == ml_dtypes.bfloat16:  # numpy knows its bits only
        return int(np.count_nonzero(values.view(np.uint16) & 0x7F80 == 0x7F80))
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def _extent(bounds):
    return tuple(stop - start for start, stop in bounds)


def _ahead(pool, pieces):
    """Read in the pool, yield in order; a few pieces exist at a time."""
    waiting = collections.deque()
    for piece in pieces:
        waiting.append(pool.submit(piece.read))
        if len(waiting) == THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
