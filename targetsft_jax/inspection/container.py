"""Container of a page: one JSON header and named arrays, as bytes.

    length of the header (u32, little endian) | header (UTF-8) | padding to 8 | arrays

The header has the entry `arrays`: name -> {dtype, shape, offset}, with offsets in bytes
from the start of the array block, which are multiples of 8, so that a browser can view
each array without a copy. All numbers are little endian.
"""

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

_DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {"f32": np.dtype("<f4"), "i32": np.dtype("<i4"), "u8": np.dtype("u1")}
)
_ALIGNMENT = 8
_LENGTH = struct.Struct("<I")
_MANTISSA_BITS = 23


def write(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Serialize a header and arrays.

    Args:
        header: JSON values, without an entry `arrays`.
        arrays: float32, int32 or uint8 arrays of any shape.

    Raises:
        ValueError: an array of another dtype, an entry `arrays`, or a number in the
            header that JSON lacks (NaN, inf).
    """
    if "arrays" in header:
        raise ValueError("the header has an entry 'arrays', which the container writes")
    entries, parts, offset = {}, [], 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": _dtype_name(name, array.dtype),
            "shape": list(array.shape),
            "offset": offset,
        }
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        parts.append(data + bytes(-len(data) % _ALIGNMENT))
        offset += len(parts[-1])
    complete = {**header, "arrays": entries}
    text = json.dumps(
        complete, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()
    padding = bytes(-(_LENGTH.size + len(text)) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(text)), text, padding, *parts])


def read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, without its entry `arrays`, and the arrays, read-only.

    Raises:
        ValueError: bytes that `write` did not write, or a part of them.
    """
    if len(data) < _LENGTH.size:
        raise ValueError(f"{len(data)} bytes are too short for a container")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    block = start + -start % _ALIGNMENT
    if len(data) < block:
        raise ValueError(
            f"the container has {len(data):,} bytes; its header alone needs {block:,}"
        )
    header = json.loads(data[_LENGTH.size : start].decode())
    arrays = {}
    for name, entry in header.pop("arrays").items():
        shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
        first = block + entry["offset"]
        size = int(np.prod(shape, dtype=np.int64))
        if len(data) < first + size * dtype.itemsize:
            raise ValueError(f"the container ends within the array {name!r}")
        arrays[name] = np.frombuffer(data, dtype, size, first).reshape(shape)
    return header, arrays


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 values rounded to a mantissa of `bits` bits, which compresses better.

    The relative error is at most 2^−(bits + 1). Infinities and NaN are unchanged.
    """
    if not 0 < bits <= _MANTISSA_BITS:
        raise ValueError(f"bits is {bits}; expected 1 to {_MANTISSA_BITS}")
    drop = _MANTISSA_BITS - bits
    values = np.ascontiguousarray(values, np.float32)
    integers = values.view(np.uint32).astype(np.uint64)
    half = np.uint64((1 << drop) >> 1)
    cut = ((integers + half) >> np.uint64(drop)) << np.uint64(drop)
    # A carry out of the largest exponent is the rounding to infinity.
    result = cut.astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(values), result, values)


def _dtype_name(array: str, dtype: np.dtype) -> str:
    for name, expected in _DTYPES.items():
        if dtype == expected:
            return name
    raise ValueError(
        f"array {array!r} has dtype {dtype}; expected float32, int32 or uint8"
    )
