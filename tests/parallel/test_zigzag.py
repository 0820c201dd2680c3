"""Zig-zag order of tokens: balance, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.parallel.zigzag import busiest, in_slot_order, zigzag_slots


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_every_device_has_the_same_number_of_pairs_of_tokens(devices):
    slots = zigzag_slots(24, devices)
    assert sorted(slots) == list(range(24))
    pairs = (slots + 1).reshape(devices, -1).sum(axis=1)
    assert set(pairs) == {24 * 25 // 2 // devices}
    assert busiest(slots, devices) == 1
    # Without it, the last of c devices has 2 - 1/c times the mean of a long row.
    plain = busiest(np.arange(2400), devices)
    assert plain == pytest.approx(2 - 1 / devices, abs=1e-3)


def test_four_devices_have_an_early_and_a_late_chunk_each():
    assert zigzag_slots(8, 4).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert zigzag_slots(8, 2).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_slot_order_is_the_inverse(devices):
    values = np.arange(2 * 16 * 3).reshape(2, 16, 3)
    shuffled = values[:, zigzag_slots(16, devices)]
    np.testing.assert_array_equal(in_slot_order(jnp.asarray(shuffled), devices), values)


def test_rows_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="12 tokens; expected a multiple of .* 8"):
        zigzag_slots(12, 4)


def test_each_device_receives_its_chunks():
    mesh = make_mesh(2, 1, 1, context=4)
    values = np.arange(3 * 2 * 16).reshape(3, 2, 16)
    batch = put_rows({"x": values}, mesh, lead=1)["x"]
    slots = zigzag_slots(16, 4).reshape(4, 4)
    for shard in batch.addressable_shards:
        row, _, place, _ = np.argwhere(mesh.devices == shard.device)[0]
        np.testing.assert_array_equal(
            shard.data, values[:, row : row + 1, slots[place]]
        )
    # Without the axis, nothing moves.
    plain = put_rows({"x": values}, make_mesh(2, devices=jax.devices()[:2]), lead=1)
    np.testing.assert_array_equal(plain["x"], values)
