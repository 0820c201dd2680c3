"""Replica groups of every spelling, against groups written out by hand."""

import numpy as np
import pytest

from targetsft_jax.planning.hlo.replica_groups import (
    most_slices,
    permutation,
    replica_groups,
)

ROWS, COLUMNS = [[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    "attributes, groups",
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", ROWS),
        ("replica_groups=[2,4]<=[8], dimensions={0}", ROWS),
        ("replica_groups=[4,2]<=[2,4]T(1,0), use_global_device_ids=true", COLUMNS),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}", ROWS),
        ("replica_groups=mesh[x=2,y=4] {x}, dimensions={0}", COLUMNS),
        # Both halves of an axis: its first 2 vary slowest.
        ("replica_groups=mesh['x'=8] {'x':(2)4}", ROWS),
        ("replica_groups=mesh['x'=8] {'x':(1)2}", COLUMNS),
        ("replica_groups=mesh['x'=8] {'x':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        # Devices of the mesh in another order.
        ("replica_groups=mesh['x'=2,'y'=4], device_ids=([2,4]<=[8]) {'y'}", ROWS),
        (
            "replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}",
            COLUMNS,
        ),
        (
            "replica_groups=mesh['x'=2,'y'=2], device_ids=(3,1,2,0) {'y'}",
            [[3, 1], [2, 0]],
        ),
        ("channel_id=1, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_every_spelling(attributes, groups):
    assert replica_groups(f"channel_id=3, {attributes}", 8).tolist() == groups


def test_groups_that_cross_slices():
    """128 devices in two slices: along data, along fsdp, and over both."""
    slices = [0] * 64 + [1] * 64
    for attributes, size, crossed in (
        ("replica_groups=[64,2]<=[2,64]T(1,0)", 2, 2),
        ("replica_groups=[2,64]<=[128]", 64, 1),
        ("replica_groups=[1,128]<=[128]", 128, 2),
        ("replica_groups=[8,16]<=[2,8,8]T(1,0,2)", 16, 2),
    ):
        groups = replica_groups(attributes, 128)
        assert sorted(groups.flatten()) == list(range(128))
        assert groups.shape[1] == size and most_slices(groups, slices) == crossed
        assert most_slices(groups, []) == 1


def test_pairs_of_a_permutation():
    attributes = "channel_id=2, source_target_pairs={{0,1},{1,2},{2,0}}"
    pairs = permutation(attributes)
    assert pairs is not None and pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert most_slices(pairs, [0, 0, 1]) == 2 and most_slices(pairs, [0, 0, 0]) == 1
    assert permutation("replica_groups={{0,1}}") is None
    assert isinstance(pairs, np.ndarray)
