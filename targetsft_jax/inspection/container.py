"""Container of a page: one JSON header and named arrays, as bytes.

    length of the header (u32, little endian) | header (UTF-8) | padding to 8 | arrays

The header has the entry `arrays`: name -> {dtype, shape, offset}, with offsets in bytes
from the start of the array block, which are multiples of 8. Numbers are little endian.
Arrays of 4-byte numbers are stored in planes: the first byte of all numbers, then the
second byte of all, … Their bytes of a kind are alike, so that gzip is a fifth smaller.
Equal arrays have the same offset.
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
    entries, offsets, size = {}, dict[bytes, int](), 0
    for name, array in arrays.items():
        dtype = _dtype_name(name, array.dtype)
        data = _planes(np.ascontiguousarray(array, _DTYPES[dtype]))
        data += bytes(-len(data) % _ALIGNMENT)
        if data not in offsets:
            offsets[data] = size
            size += len(data)
        entries[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "offset": offsets[data],
        }
    complete = {**header, "arrays": entries}
    text = json.dumps(
        complete, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()
    padding = bytes(-(_LENGTH.size + len(text)) % _ALIGNMENT)
    return b"".join([_LENGTH.pack(len(text)), text, padding, *offsets])


def read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, without its entry `arrays`, and the arrays.

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
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if len(data) < first + size:
            raise ValueError(f"the container ends within the array {name!r}")
        planes = np.frombuffer(data, np.uint8, size, first)
        numbers = planes.reshape(dtype.itemsize, -1).T.tobytes()
        arrays[name] = np.frombuffer(numbers, dtype).reshape(shape)
    return header, arrays


def _planes(array: np.ndarray) -> bytes:
    """Bytes of an array: the first of every number, then the second of every one, …"""
    numbers = np.frombuffer(array.tobytes(), np.uint8)
    return numbers.reshape(-1, array.dtype.itemsize).T.tobytes()


def _dtype_name(array: str, dtype: np.dtype) -> str:
    for name, expected in _DTYPES.items():
        if dtype == expected:
            return name
    raise ValueError(
        f"array {array!r} has dtype {dtype}; expected float32, int32 or uint8"
    )
