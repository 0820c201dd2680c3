"""Loss and gradients do not depend on the layout of the examples.

Equal to 1e-5 in float32 over a complete optimizer step. For every method, with its
frozen models, columns and policies: 1 to 8 micro-batches, examples packed or one per
row, in another order, in rows twice as long as needed, between empty rows and empty
micro-batches; on one device and on eight devices in three axes. For Target-SFT, PSFT
and iw-SFT also: the tight batch without a loop over micro-batches, and meshes of one
axis. Several processes are tested in test_processes.py.
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
    # τ is between the probabilities of these labels: some tokens have γ = 0.
    "profit": ("profit", {"tau": 1e-3}, FROM_DATA),
    "gem, logsigmoid": ("gem", {"variant": "logsigmoid"}, FROM_DATA),
    "custom": ("custom", {"gamma": "entropy", "residual": {"guided": 0.3}}, FROM_DATA),
    "psft, snapshot": ("psft", {}, Snapshot(2)),
    "iw_sft, current": ("iw_sft", {}, Trajectory(temperature=0.2)),
    "iw_sft, average": ("iw_sft", {}, Trajectory(average=True, temperature=0.2)),
}
KINDS = ("target_sft", "psft, snapshot", "iw_sft, average")

# Micro-batches of rows of examples; the rest is padding.
ONE_PER_ROW = [[[number] for number in range(8)]]
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
    batch = rig.laid_out(ONE_PER_ROW, *shape)
    # optax.trace(0) stores the gradient itself.
    mesh = sizes and make_mesh(*sizes)
    return rig.build(spec, optax.trace(0.0), mesh, given=batch, options=quicker())


def _loss_and_gradient(case, layout, sizes=None, shape=(PARTS, ROWS, LENGTH)):
    """Run a step between two refreshes, with old policies unlike the student."""
    built = _built(case, sizes, shape)
    state = built.fresh()
    shardings = jax.tree.map(lambda x: x.sharding, (state.step, state.params))
    other = jax.tree.map(np.copy, rig.params_of(rig.STUDENT, 3))
    step, old = jax.device_put((np.int32(1), other), shardings)
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
def _expected(case):
    return _loss_and_gradient(case, ONE_PER_ROW)


def _assert_same(actual, expected):
    """Compare each leaf of the gradient to 1e-5 of its largest element."""
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    leaves = jax.tree.leaves(actual[1]), jax.tree.leaves(expected[1])
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
        assert np.any(b)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("case", CASES)
def test_every_layout_and_eight_devices_agree(case: str):
    for layout in LAYOUTS.values():
        _assert_same(_loss_and_gradient(case, layout), _expected(case))
    for layout in (ONE_PER_ROW, LAYOUTS["empty rows and parts"]):
        _assert_same(_loss_and_gradient(case, layout, (2, 2, 2)), _expected(case))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("case", KINDS)
def test_the_tight_batch_without_a_loop_agrees(case: str):
    tight = (1, 8, max(len(example["tokens"]) for example in rig.examples()))
    _assert_same(_loss_and_gradient(case, ONE_PER_ROW, shape=tight), _expected(case))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1)], ids=str)
def test_meshes_of_one_axis_agree(case: str, sizes):
    for layout in (ONE_PER_ROW, LAYOUTS["packed"]):
        _assert_same(_loss_and_gradient(case, layout, sizes), _expected(case))


def test_another_mask_or_a_mean_of_means_is_detected():
    """Control: the layouts are unbalanced, so a wrong normalisation differs."""
    loss, gradient = _expected("sft")
    counts = [example["loss_mask"].sum() for example in rig.examples()]
    assert max(counts) > 5 * min(counts)
    losses = [float(_single(number)) for number in range(len(rig.examples()))]
    share = np.array(counts) / sum(counts)
    np.testing.assert_allclose(np.dot(share, losses), loss, rtol=1e-5)
    assert abs(np.mean(losses) - loss) > 1e-2 * loss
    with pytest.raises(AssertionError):
        _assert_same((loss, gradient), _expected("dft"))


def _single(number: int):
    """Return the loss of a step with a single example."""
    built = _built("sft")
    batch = rig.laid_out([[[number]]], PARTS, ROWS, LENGTH)
    return built.step(built.fresh(), built.frozen, batch)[1]["loss"]
