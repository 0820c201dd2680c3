"""PSFT and iw-SFT with policies in the state, against loops with dense logits."""

import re
import shutil
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.loss import reference_loss
from targetsft_jax.models import decoder
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.targets.policies import AVERAGE, OLD, Snapshot, Trajectory

# A learning rate with ratios on both sides of 1 + ε.
RATE, STEPS = 2e-3, 4
LINEAR = optax.sgd(RATE, momentum=0.9)
# As in test_step: sums of a few hundred float32 products in another order.
ROUNDINGS = 200
MASK = rig.batch()["loss_mask"]


def _spec(method, policy, **changes):
    if method == "iw_sft":
        changes |= {"columns": (), "frozen": {"reference": rig.STUDENT}}
    return rig.make_spec(method, policy=policy, **changes)


@lru_cache
def _built(method, policy, sizes=None, parts=1, lora=None):
    spec = _spec(method, policy, lora=lora) if policy else rig.make_spec(method)
    spec = replace(spec, on_base=tuple(spec.frozen) if lora else ())
    return rig.build(
        spec, LINEAR, sizes and make_mesh(*sizes), parts, options=quicker()
    )


def _start(built, **held):
    """Fresh state, and frozen models with the initial student as reference."""
    state = built.fresh()
    frozen = dict(built.frozen)
    if "reference" in frozen:
        shardings = jax.tree.map(lambda x: x.sharding, state.params)
        start = jax.tree.map(np.copy, rig.params_of(rig.STUDENT))
        frozen["reference"] = jax.device_put(start, shardings)
    return state, frozen


def _run(built, parts=1, steps=STEPS):
    """Run some steps; return the states after them and their metrics."""
    state, frozen = _start(built)
    states, metrics = [], []
    for _ in range(steps):
        state, step_metrics = built.step(state, frozen, rig.micro(parts))
        states.append(rig.host(state))
        metrics.append({k: float(v) for k, v in step_metrics.items()})
    return states, metrics


@lru_cache
def _dense(method):
    """(params, column) -> ((loss, label log-probabilities), gradient), dense."""
    rows = rig.batch()
    mask = rows["loss_mask"].astype(np.float32)

    def model(params):
        hidden = decoder.apply(
            rig.STUDENT,
            params,
            rows["tokens"],
            positions=rows["positions"],
            segment_ids=rows["segment_ids"],
        )
        return hidden, decoder.head(params)[: rig.VOCABULARY]

    def value(params, column):
        hidden, head = model(params)
        logs = jax.nn.log_softmax(hidden @ head.T)
        label_logs = jnp.take_along_axis(logs, rows["labels"][..., None], -1)[..., 0]
        loss = reference_loss(
            method,
            hidden,
            head,
            rows["labels"],
            weights=mask / mask.sum(),
            **({} if method == "sft" else column),
        )
        return loss, label_logs

    return jax.jit(jax.value_and_grad(value, has_aux=True), compiler_options=quicker())


def _by_hand(method, column_of):
    """Train with dense logits; return the losses, and the parameters after each step.

    `column_of(step, params, logprob)` computes the column; `logprob(params)` returns
    label log-probabilities.
    """
    pull = _dense(method)
    key = {"psft": "old_logprob", "iw_sft": "trajectory_weight"}[method]
    zeros = {key: np.zeros(MASK.shape, np.float32)}

    def logprob(params):
        return np.asarray(pull(params, zeros)[0][1])

    params = jax.tree.map(jnp.array, rig.params_of(rig.STUDENT))
    moments = LINEAR.init(params)
    losses, after = [], []
    for step in range(STEPS):
        column = {key: jnp.array(column_of(step, params, logprob), "float32")}
        (loss, _), gradient = pull(params, column)
        updates, moments = LINEAR.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
        after.append(rig.host(params))
    return losses, after


def _assert_follows(actual, expected):
    """Compare losses to 1e-5, and changes of the parameters to ROUNDINGS."""
    states, metrics = actual
    losses, params = expected
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-5)
    start = rig.params_of(rig.STUDENT)

    def moved(tree):
        return jax.tree.map(lambda a, b: a - b, tree, start)

    for state, other in zip(states, params):
        rig.assert_close_trees(moved(state.params), moved(other), ROUNDINGS, other)


def _old_policies(every):
    """PSFT's column, from snapshots taken in the test."""
    snapshot = {}

    def column(step, params, logprob):
        if step % every == 0:
            snapshot[OLD] = params
        return logprob(snapshot[OLD])

    return column


SEGMENTS = rig.batch()["segment_ids"]


def _weights(ratio, clip=(0.0, 16.0), temperature=1.0, segments=SEGMENTS):
    """Compute the weights of trajectories, segment by segment."""
    weights = np.ones(MASK.shape, np.float32)
    for row in range(rig.ROWS):
        for segment in set(segments[row]) - {0}:
            at = (segments[row] == segment) & MASK[row]
            if at.any():
                weight = np.exp(temperature * ratio[row][at].mean())
                weights[row][at] = np.clip(weight, *clip)
    return weights


def test_a_snapshot_at_every_step_is_sft():
    """r = 1, so the gradient is that of SFT; the published loss is -1."""
    lora = Lora(4, 8.0, ("q", "down"))
    states, metrics = _run(_built("psft", Snapshot(1), lora=lora), steps=3)
    sft = rig.build(rig.make_spec("sft", lora=lora), LINEAR, options=quicker())
    state = sft.fresh()
    for after, psft in zip(states, metrics):
        state, plain = sft.step(state, sft.frozen, rig.micro(1))
        np.testing.assert_allclose([psft["gamma"], psft["loss"]], [1, -1], rtol=1e-6)
        np.testing.assert_allclose(psft["grad_norm"], plain["grad_norm"], rtol=1e-6)
        rig.assert_close_trees(after.params, rig.host(state.params), 4)
    # The snapshot has the trained parameters only: the adapters.
    assert jax.tree.structure(after.held[OLD]) == jax.tree.structure(after.params)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("sizes, parts", [(None, 1), ((2, 2, 2), 2)], ids=str)
def test_psft_equals_a_loop_with_snapshots(sizes, parts):
    expected = _by_hand("psft", _old_policies(2))
    actual = _run(_built("psft", Snapshot(2), sizes, parts), parts)
    _assert_follows(actual, expected)
    gamma = [m["gamma"] for m in actual[1]]
    np.testing.assert_allclose(gamma[::2], 1, rtol=1e-6)
    assert all(abs(g - 1) > 1e-2 for g in gamma[1::2])
    # π_old of steps 2 and 3 is bit-identical to the student after step 1.
    for number in (2, 3):
        rig.assert_equal_trees(actual[0][number].held[OLD], actual[0][1].params)
    # Control: a snapshot at every step gives other parameters.
    other = _by_hand("psft", _old_policies(1))
    with pytest.raises(AssertionError):
        rig.assert_close_trees(expected[1][-1], other[1][-1], 100 * ROUNDINGS)


def test_a_skipped_step_does_not_delay_a_refresh():
    """Refreshes depend on the step number; a skipped step keeps the snapshot."""
    built = _built("psft", Snapshot(2))
    state, frozen = _start(built)
    state, _ = built.step(state, frozen, rig.micro(1))
    damaged = jax.tree.map(lambda x: x * np.nan, state.held[OLD])
    state = replace(state, held={OLD: damaged})
    before = rig.host(state)
    state, metrics = built.step(state, frozen, rig.micro(1))
    assert metrics["skipped"] == 1
    rig.assert_equal_trees(rig.host(state.params), before.params)
    assert np.isnan(rig.host(state.held[OLD])["embed"]).all()
    state, metrics = built.step(state, frozen, rig.micro(1))
    assert metrics["skipped"] == 0
    rig.assert_equal_trees(rig.host(state.held[OLD]), before.params)


def test_iw_sft_with_the_current_policy_equals_a_loop():
    """Packed rows: each segment has its weight."""
    policy = Trajectory(temperature=0.25, clip=(0.5, 1.5))
    reference = []

    def column(step, params, logprob, segments=SEGMENTS):
        reference[:] = reference or [logprob(params)]
        ratio = logprob(params) - reference[0]
        return _weights(ratio, policy.clip, policy.temperature, segments)

    expected = _by_hand("iw_sft", column)
    states, metrics = _run(_built("iw_sft", policy))
    _assert_follows((states, metrics), expected)
    # At the first step the student equals the reference, and iw-SFT is SFT.
    (loss, _), gradient = _dense("sft")(rig.params_of(rig.STUDENT), {})
    assert metrics[0]["gamma"] == pytest.approx(1, rel=1e-6)
    assert metrics[0]["loss"] == pytest.approx(float(loss), rel=2e-6)
    norm = float(optax.tree.norm(gradient))
    assert metrics[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert abs(metrics[2]["gamma"] - 1) > 1e-2
    assert states[0].held == {}
    # Control: one weight per row gives another result.
    rows = np.minimum(SEGMENTS, 1)
    wrong = _by_hand("iw_sft", lambda *arguments: column(*arguments, segments=rows))
    with pytest.raises(AssertionError):
        _assert_follows((states, metrics), wrong)


def test_iw_sft_with_an_average_policy_equals_a_loop():
    policy = Trajectory(average=True, decay=0.6, temperature=0.25)
    average, reference = [], []

    def column(step, params, logprob):
        reference[:] = reference or [logprob(params)]
        if not average:
            average.append(params)
        else:
            average[:] = [
                jax.tree.map(lambda a, p: 0.6 * a + 0.4 * p, average[0], params)
            ]
        ratio = logprob(average[0]) - reference[0]
        return _weights(ratio, temperature=policy.temperature)

    expected = _by_hand("iw_sft", column)
    built = _built("iw_sft", policy, (2, 2, 2), 2)
    actual = _run(built, 2)
    _assert_follows(actual, expected)
    by_hand = rig.host(rig.params_of(rig.STUDENT))
    for state in actual[0]:
        by_hand = jax.tree.map(lambda a, p: 0.6 * a + 0.4 * p, by_hand, state.params)
        rig.assert_close_trees(state.held[AVERAGE], by_hand, 4)
    # A skipped step does not change the average.
    state, frozen = _start(built)
    state, _ = built.step(state, frozen, rig.micro(2))
    before = rig.host(state)
    frozen["reference"] = jax.tree.map(lambda x: x * np.nan, frozen["reference"])
    state, metrics = built.step(state, frozen, rig.micro(2))
    assert metrics["skipped"] == 1
    rig.assert_equal_trees(rig.host(state.held), before.held)


def test_an_average_of_a_bfloat16_student_is_float32():
    params = jax.tree.map(lambda x: x.astype("bfloat16"), rig.params_of(rig.STUDENT))
    average = jax.eval_shape(Trajectory(average=True).start, params)[AVERAGE]
    assert {x.dtype.name for x in jax.tree.leaves(average)} == {"float32"}
    snapshot = jax.eval_shape(Snapshot(8).start, params)[OLD]
    assert {x.dtype.name for x in jax.tree.leaves(snapshot)} == {"bfloat16"}


def test_a_snapshot_adds_one_copy_of_the_parameters_written_at_a_refresh():
    """Compared with the program of SFT."""
    one = rig.one_device()
    programs = [
        rig.lower(spec, LINEAR, one, 8, 16).compile(compiler_options=quicker())
        for spec in (rig.make_spec("sft"), _spec("psft", Snapshot(8)))
    ]
    plain, psft = (p.memory_analysis() for p in programs)
    size = sum(x.nbytes for x in jax.tree.leaves(rig.params_of(rig.STUDENT)))
    more = psft.argument_size_in_bytes - plain.argument_size_in_bytes
    assert size <= more < 1.05 * size
    assert psft.temp_size_in_bytes < plain.temp_size_in_bytes + size / 2
    text = programs[1].as_text()
    (branches,) = re.findall(r"conditional\(.*branch_computations={(.*?)}", text)
    bodies = [
        re.search(rf"^{re.escape(name)} \(.*?^}}", text, re.M | re.S)[0]
        for name in branches.split(", ")
    ]
    assert sorted("copy" in body for body in bodies) == [False, True]


CONFIG = TrainConfig(
    steps=6, batch_size=8, learning_rate=1e-2, save_every=3, clip_norm=1.0
)


@pytest.fixture(scope="module")
def dataset():
    config = DataConfig(synthetic=SyntheticConfig(examples=64), max_length=64)
    return prepare(config, byte_tokenizer()).train


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, policy",
    [("psft", Snapshot(2)), ("iw_sft", Trajectory(average=True))],
    ids=["psft", "iw_sft"],
)
def test_a_cut_run_resumes_with_its_policies_bit_for_bit(
    method, policy, dataset, tmp_path
):
    """From step 3, between two refreshes; on another mesh up to rounding."""
    spec = _spec(method, policy)

    def run(run_dir, mesh):
        run_dir.mkdir(exist_ok=True)
        built = jax.tree.map(np.copy, rig.params_of(rig.STUDENT))
        frozen = rig.frozen_of(spec, mesh)
        where = {"run_dir": run_dir, "seed": 3}
        return rig.run_fit(spec, built, frozen, dataset, mesh, CONFIG, **where)

    complete = run(tmp_path / "complete", make_mesh(2, 2, 2))
    assert complete.resumed_from == 0
    for name in ("cut", "moved"):
        shutil.copytree(tmp_path / "complete", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "6")
    cut = run(tmp_path / "cut", make_mesh(2, 2, 2))
    assert cut.resumed_from == 3
    expected = rig.host(complete.state)
    rig.assert_equal_trees(rig.host(cut.state), expected)
    assert list(expected.held) == list(policy.held)
    if method == "psft":
        moved = run(tmp_path / "moved", make_mesh(8, 1, 1)).state
        rig.assert_close_trees(rig.host(moved.held), expected.held, 2000)
        ours, theirs = (
            [row["loss"] for row in rig.metrics_of(tmp_path / name)][-3:]
            for name in ("moved", "complete")
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
