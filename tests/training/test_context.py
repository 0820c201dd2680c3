"""Train steps whose devices share rows: equal to one device with whole rows."""

from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.parallel.vocabulary import group_sizes
from targetsft_jax.targets.policies import Snapshot, Trajectory
from targetsft_jax.training.validate import make_measure

LINEAR = optax.sgd(0.1, momentum=0.9)
# As in test_step: sums of a few hundred float32 products in another order.
ROUNDINGS = 200

_TRAJECTORY = {
    "policy": Trajectory(average=True),
    "columns": (),
    "frozen": {"reference": rig.STUDENT},
}
_ADAPTERS = Lora(4, 12.0, ("q", "o", "down"), dropout=0.3)
SPECS = {
    # A second model of another width.
    "target_sft": rig.make_spec("target_sft"),
    # A weight per segment, from sums over tokens of several devices.
    "iw_sft": rig.make_spec("iw_sft", **_TRAJECTORY),
    # Dropout masks of single tokens.
    "lora": rig.make_spec("sft", lora=_ADAPTERS),
    "psft": rig.make_spec("psft", policy=Snapshot(2), remat="full"),
    "asft": rig.make_spec("asft", remat="dots"),
}


@lru_cache
def _rows():
    """Packed rows, a segment as long as the row, and one segment with padding."""
    rows = {name: x.copy() for name, x in rig.batch().items()}
    place = np.arange(rig.LENGTH)
    for row, end in ((2, rig.LENGTH), (3, rig.LENGTH), (4, 11)):
        for name, x in rows.items():
            x[row] = {
                "segment_ids": place < end,
                "positions": np.where(place < end, place, 0),
                "loss_mask": (place > 1) & (place < end - 1),
            }.get(name, x[row])
    rows["labels"] = np.where(rows["loss_mask"], np.roll(rows["tokens"], -1, 1), 0)
    # More than one border is inside a segment, for two and for four devices.
    for border in (2, 4, 8, 12, 14):
        ids = rows["segment_ids"]
        assert np.any((ids[:, border - 1] == ids[:, border]) & (ids[:, border] > 0))
    return {name: x.astype(rig.batch()[name].dtype) for name, x in rows.items()}


def _stepped(name, sizes=(1, 1, 1), context=1, parts=1):
    """Update of the parameters, and metrics, of a step."""
    devices = jax.devices()[: context * int(np.prod(sizes))]
    mesh = make_mesh(*sizes, devices, context=context)
    batch = put_rows(rig.micro(parts, _rows()), mesh, lead=1)
    # The largest groups that share the vocabulary.
    spec = replace(SPECS[name], vocab_group=group_sizes(mesh)[-1])
    built = rig.build(spec, LINEAR, mesh, parts, batch, quicker())
    state, metrics = built.step(built.fresh(), built.frozen, batch)
    start = rig.start_of(spec)
    moved = jax.tree.map(lambda new, old: new - old, rig.host(state.params), start)
    return moved, {k: float(np.sum(v)) for k, v in metrics.items()}


_alone = lru_cache(_stepped)


def _assert_equal(name, *layout):
    moved, metrics = _stepped(name, *layout)
    expected, reference = _alone(name)
    rig.assert_close_trees(moved, expected, ROUNDINGS, rig.start_of(SPECS[name]))
    assert metrics == pytest.approx(reference, rel=1e-5, abs=1e-6)
    assert metrics["tokens"] == (_rows()["segment_ids"] > 0).sum()


CASES = [
    ("target_sft", (1, 2, 2), 2, 2),
    ("iw_sft", (2, 1, 1), 4),
    ("lora", (1, 2, 1), 2, 4),
    ("target_sft", (1, 1, 1), 4),
    ("iw_sft", (1, 2, 2), 2),
    ("lora", (1, 1, 2), 4),
    ("psft", (1, 2, 1), 4),
    ("asft", (2, 2, 1), 2),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case[0]} {case[2]}", marks=[pytest.mark.slow] * slow)
        for case, slow in zip(CASES, (0, 0, 0, 1, 1, 1, 1, 1))
    ],
)
def test_devices_that_share_rows_equal_one_device(case):
    _assert_equal(*case)


def test_rows_that_are_not_in_zig_zag_order_are_detected(monkeypatch):
    """Control: attention that knows other slots than the batch gives other numbers."""
    name, *layout = CASES[0]
    order = np.arange(rig.LENGTH)
    monkeypatch.setattr("targetsft_jax.parallel.mesh.zigzag_slots", lambda *_: order)
    with pytest.raises(AssertionError):
        _assert_equal(name, *layout)


@pytest.mark.slow
def test_validation_of_shared_rows():
    spec = SPECS["target_sft"]
    results = []
    for sizes, context in (((1, 1, 1), 1), ((1, 2, 1), 4)):
        devices = jax.devices()[: context * int(np.prod(sizes))]
        mesh = make_mesh(*sizes, devices, context=context)
        state = rig.build(
            spec, LINEAR, mesh, given=put_rows(rig.micro(1), mesh, lead=1)
        ).fresh()
        measure = make_measure(spec, mesh)
        frozen = rig.frozen_of(spec, mesh)
        results.append(measure(state, frozen, put_rows(_rows(), mesh)))
    for key, value in results[0].items():
        np.testing.assert_allclose(results[1][key], value, rtol=1e-5, err_msg=key)
