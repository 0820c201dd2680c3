"""The same examples give the same loss and gradients, however they are laid out.

Loss and gradient are those of the whole step, to 1e-5 in float32. Proved for every
method, with its second models, columns and policies: any number of micro-batches with
targets from 1 to 8, examples packed or one a row, in another order, in rows twice as
long as they need, between empty rows and empty micro-batches; on one device and on
eight in three axes. Proved for Target-SFT, PSFT and iw-SFT, one of each kind: the tight
batch with no loop over micro-batches, and meshes of one axis. Other processes are no
part of this file.
"""

from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.targets.methods import METHODS
from targetsft_jax.targets.policies import AVERAGE, FROM_DATA, OLD, Snapshot, Trajectory

PARTS, ROWS, LENGTH = 8, 8, 32
# (method, hyper-parameters, policy)
CASES = {name: (name, {}, FROM_DATA) for name in METHODS} | {
    # Between the probabilities of these labels: some tokens are kept, and some not.
    "profit": ("profit", {"tau": 1e-3}, FROM_DATA),
    "gem, logsigmoid": ("gem", {"variant": "logsigmoid"}, FROM_DATA),
    "custom": ("custom", {"gamma": "entropy", "residual": {"guided": 0.3}}, FROM_DATA),
    "psft, snapshot": ("psft", {}, Snapshot(2)),
    "iw_sft, current": ("iw_sft", {}, Trajectory(temperature=0.2)),
    "iw_sft, average": ("iw_sft", {}, Trajectory(average=True, temperature=0.2)),
}
KINDS = ("target_sft", "psft, snapshot", "iw_sft, average")

# For each micro-batch its rows, for each row its examples; all else is padding.
ONE_A_ROW = [[[number] for number in range(8)]]
LAYOUTS = {
    "2 micro-batches": [[[0], [1], [2], [3]], [[4], [5], [6], [7]]],
    "4 micro-batches": [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]],
    "8 micro-batches": [[[number]] for number in range(8)],
    "packed": [[[0, 1, 2], [3, 4, 5], [6, 7]]],
    "packed, 2 micro-batches": [[[0, 1, 2]], [[3, 4, 5], [6, 7]]],
    "another order": [[[7, 0, 1], [6, 5]], [[4], [3, 2]]],
    "empty rows and parts": [[], [[], [7, 2], []], [], [], [[1, 0, 6], [], [5, 3, 4]]],
}


@lru_cache
def _built(case, sizes=None, shape=(PARTS, ROWS, LENGTH)):
    method, hyper, policy = CASES[case]
    needs = METHODS[method].inputs(**{**METHODS[method].defaults, **hyper})
    roles = [role for role in ("teacher", "reference") if f"{role}_logits" in needs]
    if "reference" in policy.reads:
        roles.append("reference")
    spec = rig.make_spec(
        method,
        hyper=hyper,
        frozen={r: rig.OTHER if r == "teacher" else rig.STUDENT for r in roles},
        columns=tuple(
            key for key in needs if not key.endswith("_logits") and key != policy.makes
        ),
        policy=policy,
    )
    given = rig.laid_out(ONE_A_ROW, *shape)
    # The trace is the gradient itself.
    mesh = sizes and make_mesh(*sizes)
    return rig.build(spec, optax.trace(0.0), mesh, given=given, options=quicker())


def _pulled(case, layout, sizes=None, shape=(PARTS, ROWS, LENGTH)):
    """Loss and gradient of a step between two refreshes; old policies are others."""
    built = _built(case, sizes, shape)
    state = built.fresh()
    places = jax.tree.map(lambda x: x.sharding, (state.step, state.params))
    other = jax.tree.map(np.copy, rig.params_of(rig.STUDENT, 3))
    step, old = jax.device_put((np.int32(1), other), places)
    held = {name: old for name in state.held}
    assert set(held) <= {OLD, AVERAGE}
    state = replace(state, step=step, held=held)
    batch = rig.laid_out(layout, *shape)
    state, metrics = built.step(state, built.frozen, batch)
    assert metrics["skipped"] == 0
    assert metrics["target_tokens"] == sum(
        example["loss_mask"].sum() for example in rig.examples()
    )
    return metrics["loss"], rig.host(state.optimizer.trace)


@lru_cache
def _wanted(case):
    return _pulled(case, ONE_A_ROW)


def _assert_same(found, wanted):
    """Each leaf of the gradient to 1e-5 of its largest element."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
        assert np.any(b)


@pytest.mark.parametrize(
    "case",
    [
        case if case in KINDS else pytest.param(case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_every_layout_and_eight_devices_give_the_same(case: str):
    for layout in LAYOUTS.values():
        _assert_same(_pulled(case, layout), _wanted(case))
    for layout in (ONE_A_ROW, LAYOUTS["empty rows and parts"]):
        _assert_same(_pulled(case, layout, (2, 2, 2)), _wanted(case))


@pytest.mark.parametrize("case", KINDS)
def test_the_tight_batch_without_a_loop_gives_the_same(case: str):
    tight = (1, 8, max(len(example["tokens"]) for example in rig.examples()))
    _assert_same(_pulled(case, ONE_A_ROW, shape=tight), _wanted(case))


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1)], ids=str)
def test_meshes_of_one_axis_give_the_same(case: str, sizes):
    for layout in (ONE_A_ROW, LAYOUTS["packed"]):
        _assert_same(_pulled(case, layout, sizes), _wanted(case))


def test_another_mask_or_a_mean_of_means_would_be_noticed():
    """The layouts are far from balanced: that is what makes them a proof."""
    loss, gradient = _wanted("sft")
    counts = [example["loss_mask"].sum() for example in rig.examples()]
    assert max(counts) > 5 * min(counts)
    losses = [float(_single(number)) for number in range(len(rig.examples()))]
    share = np.array(counts) / sum(counts)
    np.testing.assert_allclose(np.dot(share, losses), loss, rtol=1e-5)
    assert abs(np.mean(losses) - loss) > 1e-2 * loss
    with pytest.raises(AssertionError):
        _assert_same((loss, gradient), _wanted("dft"))


def _single(number: int):
    """The loss of a step with one example alone."""
    built = _built("sft")
    batch = rig.laid_out([[[number]]], PARTS, ROWS, LENGTH)
    return built.step(built.fresh(), built.frozen, batch)[1]["loss"]
