"""Mesh shapes from sizes, and the sharding of a batch."""

import jax
import numpy as np
import pytest

from targetsft_jax.parallel.mesh import (
    make_mesh,
    mesh_shape,
    replicated,
    row_shards,
    tokens_over,
)


@pytest.mark.parametrize(
    "devices, sizes, expected",
    [
        (1, (), (1, 1, 1, 1)),
        (8, (), (8, 1, 1, 1)),
        (8, (-1, 2, 2), (2, 2, 1, 2)),
        (8, (2, -1, 4), (2, 1, 1, 4)),
        (8, (1, 1, -1), (1, 1, 1, 8)),
        (8, (2, 2, 2), (2, 2, 1, 2)),
        (6, (-1, 3, 1), (2, 3, 1, 1)),
    ],
)
def test_minus_one_is_all_remaining_devices(devices, sizes, expected):
    assert mesh_shape(devices, *sizes) == expected


def test_context_is_an_axis_like_the_others():
    assert mesh_shape(8, -1, 1, 2, context=2) == (2, 1, 2, 2)
    assert mesh_shape(8, 1, 2, 1, context=-1) == (1, 2, 4, 1)
    with pytest.raises(ValueError, match="needs 16 devices; found 8"):
        mesh_shape(8, 4, 1, 1, context=4)


@pytest.mark.parametrize(
    "devices, sizes, message",
    [
        (8, (3, 1, 1), "needs 3 devices; found 8"),
        (8, (16, 1, 1), "needs 16 devices; found 8"),
        # A divisor that leaves devices idle is refused too, unless one size is free.
        (8, (4, 1, 1), "needs 4 devices; found 8"),
        (8, (-1, 3, 1), "needs a multiple of 3 devices; found 8"),
        (8, (-1, 4, 4), "needs a multiple of 16 devices; found 8"),
        (8, (-1, -1, 1), "at most once"),
        (8, (0, 1, 1), "expected positive sizes"),
        (8, (8, -2, 1), "expected positive sizes"),
        # Two negative sizes whose product fits.
        (8, (-2, -4, 1), "expected positive sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(devices, sizes, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mesh_shape(devices, *sizes)
    # All sizes are named, so that the user sees which one to change.
    data, fsdp, tensor = sizes
    named = {"data": data, "fsdp": fsdp, "context": 1, "tensor": tensor}
    assert str(named) in str(refusal.value)


def test_the_mesh_has_every_device_once():
    mesh = make_mesh(-1, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}
    part = make_mesh(devices=jax.devices()[:2])
    assert [d.id for d in part.devices.flat] == [0, 1]
    with pytest.raises(ValueError, match="found 2"):
        make_mesh(4, devices=jax.devices()[:2])


def test_rows_are_sharded_over_data_and_fsdp_and_replicated_over_tensor():
    mesh = make_mesh(2, 2, 2)
    values = np.arange(3 * 8 * 5).reshape(3, 8, 5)
    laid = jax.device_put(values, tokens_over(mesh, lead=1))
    for shard in laid.addressable_shards:
        data, fsdp, _, _ = np.argwhere(mesh.devices == shard.device)[0]
        first = 2 * (2 * data + fsdp)
        np.testing.assert_array_equal(shard.data, values[:, first : first + 2])
    everywhere = jax.device_put(values, replicated(mesh))
    assert {s.data.shape for s in everywhere.addressable_shards} == {values.shape}


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_row_shards_counts_the_distinct_shards_of_a_batch(sizes):
    mesh = make_mesh(*sizes)
    batch = jax.device_put(np.zeros((8, 3)), tokens_over(mesh))
    assert row_shards(mesh) == len({str(s.index) for s in batch.addressable_shards})
