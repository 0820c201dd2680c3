"""Train step against a single-device reference with dense logits."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.loss import reference_loss
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.training import step as step_module
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.step import make_train_step

METHODS = ("sft", "target_sft", "asft")
STEPS, RATE = 3, 0.1

# Momentum is linear in the gradient, so roundings stay small. The first step of Adam is
# g/|g|, which amplifies the rounding of a gradient near zero to a full step.
LINEAR = optax.sgd(RATE, momentum=0.9)
ADAMW = make_optimizer(TrainConfig(learning_rate=1e-2), 20)
# A gradient sums a few hundred float32 products, through two layers, in another order.
ROUNDINGS = 200


@lru_cache
def _built(method="target_sft", sizes=None, parts=1, remat="none"):
    mesh = sizes and make_mesh(*sizes)
    optimizer = ADAMW if method == "iw_sft" else LINEAR
    spec = rig.make_spec(method, remat=remat)
    return rig.build(spec, optimizer, mesh, parts, options=quicker())


@lru_cache
def _reference_gradient(method: str):
    """(params, rows) -> (mean loss over the target tokens, gradient), dense."""
    spec = rig.make_spec(method)
    frozen = rig.frozen_of(spec)

    def value(params, rows):
        def model(config, params):
            hidden = decoder.apply(
                config,
                params,
                rows["tokens"],
                positions=rows["positions"],
                segment_ids=rows["segment_ids"],
            )
            # Rows of the head beyond the vocabulary are padding.
            return hidden, decoder.head(params)[: rig.VOCABULARY]

        mask = rows["loss_mask"].astype(jnp.float32)
        models = {role: model(config, frozen[role]) for role, config in second}
        return reference_loss(
            spec.method.method,
            *model(spec.student, params),
            rows["labels"],
            weights=mask / mask.sum(),
            **models,
            **spec.method.hyper,
        )

    second = tuple(spec.frozen.items())
    return jax.jit(jax.value_and_grad(value), compiler_options=rig.QUICK)


@lru_cache
def _reference(method: str):
    """Losses of STEPS steps, the first gradient, and the final parameters."""
    pull = _reference_gradient(method)
    params = rig.params_of(rig.STUDENT)
    moments = LINEAR.init(params)
    losses, gradients = [], []
    for _ in range(STEPS):
        loss, gradient = pull(params, rig.batch())
        updates, moments = LINEAR.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
        gradients.append(rig.host(gradient))
    return np.array(losses), gradients[0], rig.host(params)


def _moved(params):
    """Difference of the parameters from the start."""
    return jax.tree.map(lambda a, b: a - b, params, rig.params_of(rig.STUDENT))


def _assert_follows_reference(method, sizes=None, parts=1, remat="none"):
    losses, gradient, params = _reference(method)
    built = _built(method, sizes, parts, remat)
    state = built.fresh()
    for number, expected in enumerate(losses):
        donated = state
        state, metrics = built.step(state, built.frozen, rig.micro(parts))
        # A loss of a few nats is the sum of about sixty terms.
        np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-6)
        assert all(x.is_deleted() for x in jax.tree.leaves(donated))
        if number == 0:
            leaves = jax.tree.leaves(gradient)
            norm = np.sqrt(sum(np.sum(np.square(g)) for g in leaves))
            np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
            # The first update of momentum is −RATE times the gradient.
            actual = jax.tree.map(lambda m: m / -RATE, _moved(rig.host(state.params)))
            start = rig.params_of(rig.STUDENT)
            floor = jax.tree.map(lambda p: p / RATE, start)
            rig.assert_close_trees(actual, gradient, ROUNDINGS, floor)
    # Each step rounds relative to the size of the parameters, and amplifies the
    # rounding of those before it.
    rig.assert_close_trees(
        _moved(rig.host(state.params)), _moved(params), 2 * ROUNDINGS, params
    )


def test_the_loss_falls_and_the_methods_differ():
    """Control: the comparisons below would also hold for a step without an update."""
    ends = {}
    for method in METHODS:
        losses, _, params = _reference(method)
        ends[method] = _moved(params)
        assert losses[-1] < losses[0]
        assert all(np.any(x) for x in jax.tree.leaves(ends[method]))
    for other in METHODS[1:]:
        with pytest.raises(AssertionError):
            rig.assert_close_trees(ends["sft"], ends[other], 100 * ROUNDINGS)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_and_steps_equal_the_dense_reference(method: str):
    _assert_follows_reference(method)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8)], ids=lambda s: "x".join(map(str, s))
)
def test_any_mesh_equals_one_device(sizes):
    _assert_follows_reference("target_sft", sizes)


def test_three_axes_with_micro_batches_and_recomputation_equal_one_device():
    _assert_follows_reference("target_sft", (2, 2, 2), parts=2, remat="full")


def test_micro_batches_are_divided_once_by_all_targets():
    """Their numbers of targets are far apart, so a mean of means would differ."""
    counts = rig.micro(4)["loss_mask"].sum(axis=(1, 2))
    assert counts.max() > 5 * counts.min() > 0
    _assert_follows_reference("target_sft", parts=4)


def test_a_mean_of_means_is_detected():
    losses, gradient, _ = _reference("target_sft")
    pull = _reference_gradient("target_sft")
    parts = rig.micro(4)
    means = [
        pull(rig.params_of(rig.STUDENT), {k: x[i] for k, x in parts.items()})
        for i in range(4)
    ]
    assert abs(np.mean([loss for loss, _ in means]) - losses[0]) > 1e-3 * losses[0]
    wrong = jax.tree.map(lambda *g: sum(g) / 4, *(g for _, g in means))
    with pytest.raises(AssertionError):
        rig.assert_close_trees(wrong, gradient, 100 * ROUNDINGS)


def test_token_counts_and_means_of_the_metrics():
    built = _built(parts=4)
    metrics = built.step(built.fresh(), built.frozen, rig.micro(4))[1]
    rows = rig.batch()
    assert metrics["target_tokens"] == rows["loss_mask"].sum()
    assert metrics["tokens"] == (rows["segment_ids"] > 0).sum()
    assert metrics["skipped"] == 0
    # Means over targets: γ = p_y is a probability, and the strength is one.
    assert metrics["gamma"] == metrics["label_prob"]
    assert 0 < metrics["gamma"] < 1
    np.testing.assert_allclose(metrics["strength"], 1, rtol=1e-6)
    assert all(np.shape(x) == () and x.dtype == "float32" for x in metrics.values())


def test_padding_and_untrained_labels_do_not_reach_the_loss():
    built = _built()
    rows = dict(rig.batch())
    padding = rows["segment_ids"] == 0
    assert padding.any()
    rows["tokens"] = np.where(padding, 77, rows["tokens"]).astype(np.int32)
    rows["labels"] = np.where(rows["loss_mask"], rows["labels"], -100).astype(np.int32)
    actual, metrics = built.step(built.fresh(), built.frozen, rig.micro(1, rows))
    expected, clean = built.step(built.fresh(), built.frozen, rig.micro(1))
    assert metrics["loss"] == clean["loss"]
    rig.assert_equal_trees(rig.host(actual.params), rig.host(expected.params))


def test_a_batch_without_targets_gives_no_update_and_no_nan():
    built = _built()
    rows = rig.batch() | {"loss_mask": np.zeros_like(rig.batch()["loss_mask"])}
    state, metrics = built.step(built.fresh(), built.frozen, rig.micro(1, rows))
    assert metrics["loss"] == metrics["grad_norm"] == metrics["skipped"] == 0
    rig.assert_equal_trees(rig.host(state.params), rig.params_of(rig.STUDENT))


def test_frozen_models_get_no_gradient_and_no_update():
    built = _built()
    before = rig.host(built.frozen)
    built.step(built.fresh(), built.frozen, rig.micro(1))
    # Neither changed nor donated with the state.
    rig.assert_equal_trees(rig.host(built.frozen), before)

    spec, mesh = rig.make_spec("target_sft"), rig.one_device()

    def loss(params, frozen):
        rows = rig.batch()
        one = jnp.float32(1)
        return step_module.loss_and_metrics(spec, mesh, params, frozen, rows, one)[0]

    both = jax.jit(jax.grad(loss, (0, 1)), compiler_options=rig.QUICK)
    student, frozen = both(rig.params_of(rig.STUDENT), built.frozen)
    assert jax.tree.leaves(frozen)
    assert not any(np.any(g) for g in jax.tree.leaves(frozen))
    assert all(np.any(g) for g in jax.tree.leaves(student))


def test_a_method_without_an_alternative_runs_no_second_model(monkeypatch):
    """Even if its parameters are passed: the spec determines the models."""
    passes = []
    real = decoder.apply_routed

    def counted(config, *arguments, **options):
        passes.append(config)
        return real(config, *arguments, **options)

    monkeypatch.setattr(decoder, "apply_routed", counted)
    frozen = rig.frozen_of(rig.make_spec("target_sft"))
    params, mesh = rig.params_of(rig.STUDENT), rig.one_device()
    places = state_shardings(rig.STUDENT, params, LINEAR, mesh)
    state = init_state(params, LINEAR, places)
    for method, models in (
        ("sft", {rig.STUDENT}),
        ("target_sft", {rig.STUDENT, rig.OTHER}),
    ):
        passes.clear()
        step = make_train_step(rig.make_spec(method), LINEAR, mesh, places)
        step.trace(state, frozen, rig.micro(1))
        assert set(passes) == models


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(poison: float):
    built = _built("iw_sft", parts=4)
    rows = rig.batch()
    bad = rows["trajectory_weight"].copy()
    bad[tuple(np.argwhere(rows["loss_mask"])[-1])] = poison
    # A finite step first, so that the moments are not zero.
    state, metrics = built.step(built.fresh(), {}, rig.micro(4))
    assert metrics["skipped"] == 0
    before = rig.host(state)
    non_finite = rig.micro(4, rows | {"trajectory_weight": bad})
    state, metrics = built.step(state, {}, non_finite)
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    after = rig.host(state)
    rig.assert_equal_trees(after.params, before.params)
    rig.assert_equal_trees(after.optimizer, before.optimizer)
    assert after.step == before.step + 1 == 2
    # The next step is applied.
    state, metrics = built.step(state, {}, rig.micro(4))
    assert metrics["skipped"] == 0 and np.isfinite(metrics["loss"])
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(before.params))
    assert all(np.any(np.asarray(a) != b) for a, b in pairs)


def test_columns_are_read_at_target_tokens_only():
    built = _built("iw_sft", parts=4)
    rows = rig.batch()
    weights = rows["trajectory_weight"]

    def metrics(column):
        batch = rig.micro(4, rows | {"trajectory_weight": column.astype(np.float32)})
        return built.step(built.fresh(), {}, batch)[1]

    one, half = metrics(weights), metrics(weights / 2)
    # The objective is linear in the weights.
    np.testing.assert_allclose(half["loss"], one["loss"] / 2, rtol=1e-6)
    np.testing.assert_allclose(half["grad_norm"], one["grad_norm"] / 2, rtol=1e-5)
    assert metrics(np.where(rows["loss_mask"], weights, np.nan)) == one


def _bfloat16():
    return jax.tree.map(lambda x: jnp.array(x, "bfloat16"), rig.params_of(rig.STUDENT))


@pytest.mark.slow
def test_later_steps_do_not_compile():
    """In bfloat16, where a moment or parameter could be returned as float32."""
    mesh = make_mesh(2, 2, 2)
    params = jax.tree.map(
        lambda x: jnp.array(x, "bfloat16"), rig.params_of(rig.STUDENT)
    )
    places = state_shardings(rig.STUDENT, params, ADAMW, mesh)
    state = init_state(params, ADAMW, places)
    spec = rig.make_spec("target_sft", dtype=jnp.bfloat16)
    frozen = rig.frozen_of(spec, mesh)
    step = make_train_step(spec, ADAMW, mesh, places)
    before = [(x.sharding, x.dtype) for x in jax.tree.leaves(state)]
    losses = []
    for _ in range(3):
        donated = state
        state, metrics = step(state, frozen, rig.micro(1))
        losses.append(float(metrics["loss"]))
        assert all(x.is_deleted() for x in jax.tree.leaves(donated))
        assert [(x.sharding, x.dtype) for x in jax.tree.leaves(state)] == before
    assert step._cache_size() == 1
    # bfloat16 passes agree with float32 to 2 %, and the loss decreases.
    np.testing.assert_allclose(losses[0], _reference("target_sft")[0][0], rtol=0.02)
    assert losses[2] < losses[1] < losses[0]


def test_moments_are_float32_and_sharded_like_their_parameters():
    """Also for bfloat16 parameters: (1 − β₂)·g² is below the rounding of bfloat16."""
    mesh = make_mesh(1, 4, 2)
    params = jax.tree.map(
        lambda x: jnp.array(x, "bfloat16"), rig.params_of(rig.STUDENT)
    )
    places = state_shardings(rig.STUDENT, params, ADAMW, mesh)
    state = init_state(params, ADAMW, places)
    for name in ("mu", "nu"):
        moments = jax.tree.leaves(optax.tree_utils.tree_get(state.optimizer, name))
        for p, m in zip(jax.tree.leaves(state.params), moments, strict=True):
            assert m.sharding == p.sharding
            assert m.dtype == "float32"
    part = state.params["embed"].addressable_shards[0].data
    assert part.size * 8 == state.params["embed"].size


def test_each_roles_cap_reaches_the_loss():
    """Capped logits, as in Gemma-2: on a mesh, against dense logits on one device."""
    caps = {"student": 0.8, "teacher": 1.2}  # of the size of the logits
    student, teacher = (
        dataclasses.replace(config, final_logit_softcap=cap)
        for config, cap in zip((rig.STUDENT, rig.OTHER), caps.values())
    )
    spec = rig.make_spec("target_sft", frozen={"teacher": teacher})
    spec = dataclasses.replace(spec, student=student)
    mesh = make_mesh(2, 2, 2)
    frozen = rig.frozen_of(spec)
    rows = rig.batch()
    mask = rows["loss_mask"].astype(np.float32)

    def stepped(params):
        scale = jnp.float32(1 / mask.sum())
        return step_module.loss_and_metrics(spec, mesh, params, frozen, rows, scale)[0]

    def dense(params, caps):
        models = []
        for config, weights in ((student, params), (teacher, frozen["teacher"])):
            hidden = decoder.apply(
                config,
                weights,
                rows["tokens"],
                positions=rows["positions"],
                segment_ids=rows["segment_ids"],
            )
            models.append((hidden, decoder.head(weights)[: rig.VOCABULARY]))
        return reference_loss(
            "target_sft",
            *models[0],
            rows["labels"],
            weights=mask / mask.sum(),
            teacher=models[1],
            logit_caps=caps,
            **spec.method.hyper,
        )

    params = rig.params_of(rig.STUDENT)
    quick = {"compiler_options": rig.QUICK}
    loss, gradient = jax.jit(jax.value_and_grad(stepped), **quick)(params)
    reference = jax.jit(jax.value_and_grad(dense), **quick)
    expected_loss, expected = reference(params, caps)
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-6)
    rig.assert_close_trees(rig.host(gradient), rig.host(expected), ROUNDINGS)
    for role in caps:  # Control: a cap far above all logits has no effect.
        other, _ = reference(params, {**caps, role: 1e5})
        assert abs(float(other / expected_loss) - 1) > 1e-4
