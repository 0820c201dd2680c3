"""The container: round trips, its layout by hand, alignment, refusals, rounding."""

import json
import struct

import numpy as np
import pytest

from targetsft_jax.inspection import container

ARRAYS = {
    "a": np.linspace(-3, 3, 7, dtype=np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "ids": np.array([[1, -1], [2**31 - 1, 0]], np.int32),
    "mask": np.array([0, 1, 255], np.uint8),
    "scalar": np.float32(2.5).reshape(()),
}
HEADER = {"title": "naïve 𝛾 </script>", "numbers": [0.1, None, True]}


def test_a_container_reads_back_equal() -> None:
    header, arrays = container.read(container.write(HEADER, ARRAYS))
    assert header == HEADER
    assert arrays.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_the_layout_is_as_documented() -> None:
    data = container.write(HEADER, ARRAYS)
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(data[4 : 4 + length].decode())
    block = (4 + length + 7) // 8 * 8
    for name, entry in header["arrays"].items():
        assert entry["offset"] % 8 == 0, name
    ids = header["arrays"]["ids"]
    first = block + ids["offset"]
    assert ids["dtype"] == "i32" and ids["shape"] == [2, 2]
    planes = data[first : first + 16]
    numbers = b"".join(planes[i::4] for i in range(4))
    assert struct.unpack("<4i", numbers) == (1, -1, 2**31 - 1, 0)


def test_equal_arrays_are_stored_once() -> None:
    one = {"a": np.arange(1000, dtype=np.int32)}
    both = one | {"b": np.arange(1000, dtype=np.int32)}
    added = len(container.write({}, both)) - len(container.write({}, one))
    assert added < 100
    _, arrays = container.read(container.write({}, both))
    np.testing.assert_array_equal(arrays["a"], arrays["b"])


def test_arrays_of_any_order_and_byte_order_are_written() -> None:
    values = np.arange(6, dtype=">f4").reshape(2, 3).T
    _, arrays = container.read(container.write({}, {"x": values.astype("=f4")}))
    np.testing.assert_array_equal(arrays["x"], values)


@pytest.mark.parametrize("keep", [0, 3, 20, -8])
def test_a_part_of_a_container_is_refused(keep: int) -> None:
    data = container.write(HEADER, ARRAYS)
    with pytest.raises(ValueError, match="container"):
        container.read(data[:keep])


@pytest.mark.parametrize(
    ("header", "arrays", "message"),
    [
        ({}, {"x": np.zeros(2)}, "'x' has dtype float64"),
        ({"arrays": 1}, {}, "'arrays'"),
        ({"x": float("nan")}, {}, "(?i)json"),
    ],
)
def test_values_that_cannot_be_written_are_refused(header, arrays, message) -> None:
    with pytest.raises(ValueError, match=message):
        container.write(header, arrays)
