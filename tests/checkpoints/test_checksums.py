"""Checksums equal the same sum in Python, and detect changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.checkpoints import checksums
from targetsft_jax.checkpoints.checksums import array_checksums, host_checksum
from targetsft_jax.parallel.mesh import make_mesh

DTYPES = ("float32", "bfloat16", "int32", "bool")


def _array(dtype: str, shape=(4, 6, 5)):
    values = 10 * np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(values > 0 if dtype == "bool" else values, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_the_documented_one(dtype: str):
    x = _array(dtype)
    host = np.asarray(x)
    bits = host.view(f"u{host.dtype.itemsize}").ravel().tolist()
    expected = sum(b * (2 * index + 1) for index, b in enumerate(bits)) % 2**32
    assert array_checksums({"a": {"b": x}}) == {"a.b": expected}
    [on_devices] = checksums._checksums([x])
    assert int(on_devices) == expected


def test_the_memory_of_an_array_is_still_reused():
    """A view that jax kept would make the next step copy the array."""
    x = _array("float32", (400, 500))
    pointer = x.unsafe_buffer_pointer()
    array_checksums(x)
    following = jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    assert following.unsafe_buffer_pointer() == pointer


def test_arrays_of_several_chunks(monkeypatch):
    x = _array("bfloat16", (3, 50))
    [expected] = checksums._checksums([x])
    monkeypatch.setattr(checksums, "_HOST_CHUNK", 64)
    assert array_checksums(x) == {"": int(expected)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_flipped_bit_is_detected(dtype: str):
    x = _array(dtype, (3, 4))
    host = np.asarray(x)
    before = array_checksums(x)
    for index in range(host.size):
        for bit in range(8 * host.dtype.itemsize):
            changed = host.copy()
            changed.view(f"u{host.dtype.itemsize}").reshape(-1)[index] ^= 1 << bit
            assert array_checksums(jnp.asarray(changed)) != before


def test_exchanged_elements_are_detected():
    x = _array("float32")
    assert array_checksums(x) != array_checksums(x[::-1])
    assert array_checksums(x) != array_checksums(jnp.swapaxes(x, 0, 1))


def test_any_mesh_gives_the_same():
    x = _array("bfloat16", (8, 6, 4))
    mesh = make_mesh(2, 2, 2)
    for spec in (P("fsdp"), P(("data", "tensor"), None, "fsdp"), P(None, "data")):
        assert array_checksums(jax.device_put(x, NamedSharding(mesh, spec))) == (
            array_checksums(x)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 7, 2**22])
def test_the_host_has_the_same_sum(dtype: str, chunk: int, monkeypatch):
    """Wherever the array is divided, by its layers or within a part."""
    monkeypatch.setattr(checksums, "_HOST_CHUNK", chunk)
    x = _array(dtype)
    (expected,) = array_checksums([x]).values()
    host = np.asarray(x)
    for parts in ([host], list(host), [host[:1], host[1:]]):
        assert host_checksum(parts) == expected
