"""Fused loss against the dense oracle, which shares no gradient code with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import loss_problems, method_cases

from targetsft_jax import METHODS, fused_loss, objective, target
from targetsft_jax.loss import reference_loss

RAGGED = 7
CHUNKS = {"dividing": 12, "more than all": 1000}
# One of each kind for the loop: no alternative, per-token columns, a
# sort, a mix with the reference, with the teacher, with the student alone.
KINDS = ("sft", "iw_sft", "eaft", "kl", "target_sft", "gem")
# Variants that change the kind or the range, not a factor.
VARIANTS = (
    "gem-variant",
    "alpha-alpha=-0.5",
    "alpha-alpha=0.0",
    "target_sft-eta=0.0",
    "target_sft-eta=1.0",
    "target_sft-gamma=0.5",
    "custom-",
)
every_method = pytest.mark.parametrize("name", METHODS)


def _fused(case, hidden, head, labels, arguments, chunk=RAGGED, real=None):
    """(loss, metrics), (∂hidden, ∂head)."""
    return loss_problems.compiled(case, chunk, real)(hidden, head, labels, arguments)


def _oracle(case, hidden, head, labels, arguments):
    """loss, (∂hidden, ∂head) by autodiff of the dense cross-entropy to the target."""

    def loss(hidden, head):
        return reference_loss(
            case.name, hidden, head, labels, **arguments, **case.hyper
        )

    return jax.value_and_grad(loss, (0, 1))(hidden, head)


def _assert_close(left, right, dtype, terms, floor=0.0):
    """Within the rounding of sums of `terms` products of the size of the largest.

    `floor` is the size of canceling terms: the oracle's gradient is p − Q, with the
    rounding of p even where a method's weight is tiny.
    """
    left, right = (np.asarray(x, np.float64) for x in (left, right))
    size = max(np.abs(right).max(), floor, float(jnp.finfo(dtype).tiny))
    tolerance = terms * float(jnp.finfo(dtype).eps) * size
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


def _assert_equals_oracle(case, chunk, masks):
    """Loss and both gradients in float64; the teacher has three more rows."""
    with jax.enable_x64(True):
        for mask in masks:
            hidden, head, labels, arguments = loss_problems.problem("float64", mask, 3)
            short = loss_problems.cut(arguments, loss_problems.V)
            expected, gradients = _oracle(case, hidden, head, labels, short)
            tensors = (hidden, head, labels, arguments)
            (loss, metrics), result = _fused(case, *tensors, chunk)
            heaviest = arguments["weights"].max()
            _assert_close(loss, expected, "float64", 64)
            for left, right, factor in zip(result, gradients, (head, hidden)):
                floor = heaviest * float(jnp.abs(factor).max())
                _assert_close(left, right, "float64", 64, floor)
            for key, value in metrics.items():
                assert np.isfinite(value), key
            if mask == "none":
                assert loss == 0
                assert not any(np.any(x) for x in (*result, *metrics.values()))


@pytest.mark.sweep(4)
@every_method
def test_equals_the_oracle(name: str):
    _assert_equals_oracle(method_cases.Case(name), RAGGED, loss_problems.MASKS)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("name", KINDS)
def test_equals_the_oracle_in_other_chunks(name: str, chunk: int):
    _assert_equals_oracle(method_cases.Case(name), chunk, loss_problems.MASKS)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "case", [c for c in method_cases.CASES if str(c).startswith(VARIANTS)], ids=str
)
def test_variants_equal_the_oracle(case: method_cases.Case):
    _assert_equals_oracle(case, RAGGED, ["holes"])


def test_a_similar_method_does_not_equal_the_oracle():
    """The comparison distinguishes two similar methods."""
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "all")
        near = method_cases.Case("kl", {"kl_weight": 0.05 + 1e-9})
        _, gradients = _oracle(near, hidden, head, labels, arguments)
        (_, _), result = _fused(
            method_cases.Case("kl"), hidden, head, labels, arguments
        )
    with pytest.raises(AssertionError):
        _assert_close(result[1], gradients[1], "float64", 64)


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    "name, dtype",
    [(name, "bfloat16") for name in METHODS] + [(name, "float32") for name in KINDS],
)
def test_equals_the_oracle_in_narrow_dtypes(name: str, dtype: str):
    """float32 within its rounding; bfloat16 within that of g, the only bfloat16 step.

    The oracle is float64 on the same (rounded) inputs. In bfloat16 g is rounded once
    before its products, and ∂hidden once after: 2^-9 each of the terms' sizes.
    """
    case = method_cases.Case(name)
    hidden, head, labels, arguments = loss_problems.problem(dtype)
    (loss, _), result = _fused(case, hidden, head, labels, arguments)
    assert result[0].dtype == hidden.dtype and result[1].dtype == head.dtype
    with jax.enable_x64(True):

        def widen(x):
            floating = jnp.issubdtype(x.dtype, jnp.floating)
            return np.asarray(x, np.float64) if floating else np.asarray(x)

        wide = jax.tree.map(widen, (hidden, head, labels, arguments))
        wide = [jax.tree.map(jnp.asarray, x) for x in wide]
        expected, gradients = _oracle(case, *wide)
    # Logits are float32 sums in both: a few hundred float32 roundings.
    _assert_close(loss, expected, "float32", 64)
    for left, right in zip(result, gradients):
        _assert_close(left, right, dtype, 64 if dtype == "float32" else 3)


def _dense_metrics(case, hidden, head, labels, arguments):
    """The documented metrics from the public API, each Σ weights · statistic."""
    logits = hidden @ head.T
    second = {
        "teacher_logits": arguments["teacher"],
        "reference_logits": arguments["reference"],
    }
    dense = {key: h @ w.T for key, (h, w) in second.items()}
    w = arguments["weights"]
    labels = jnp.where(w == 0, 0, labels)
    columns = {k: v for k, v in arguments.items() if k not in ("weights", *CUT)}
    q = target(case.name, logits, labels, **columns, **dense, **case.hyper)
    log_p = jax.nn.log_softmax(logits)
    log_p_y = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    statistics = {
        "nll": -log_p_y,
        "label_prob": jnp.exp(log_p_y),
        "entropy": -(jnp.exp(log_p) * log_p).sum(-1),
        "accuracy": logits.argmax(-1) == labels,
        "gamma": q.label_weight,
        "strength": q.strength,
        "negative_mass": jnp.maximum(0, -q.induced()).sum(-1),
    }
    needs = METHODS[case.name].inputs(**{**METHODS[case.name].defaults, **case.hyper})
    for key in set(needs) & set(second):
        log_t = jax.nn.log_softmax(dense[key])
        kl = (jnp.exp(log_t) * (log_t - log_p)).sum(-1)
        statistics["kl_" + key.removesuffix("_logits")] = kl
    value = objective(case.name, logits, labels, **columns, **dense, **case.hyper)
    sums = {k: (w * x).sum() for k, x in statistics.items()}
    return (w * value).sum(), sums | {"labels_outside": 0}


CUT = ("teacher", "reference")


@pytest.mark.sweep(4)
@every_method
def test_metrics_and_value_equal_dense_values(name: str):
    case = method_cases.Case(name)
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes", 3)
        short = loss_problems.cut(arguments, loss_problems.V)
        expected, statistics = _dense_metrics(case, hidden, head, labels, short)
        (loss, metrics), _ = _fused(case, hidden, head, labels, arguments)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    assert metrics.keys() == statistics.keys()
    for key, value in statistics.items():
        # The negative mass of proper methods is 0 without computation.
        np.testing.assert_allclose(
            metrics[key], value, rtol=1e-12, atol=1e-16, err_msg=key
        )


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", KINDS)
def test_the_primal_alone_is_the_same(name: str):
    """Without gradients another loop runs, as in evaluation."""
    with jax.enable_x64(True):
        tensors = loss_problems.problem("float64", "holes", 3)
        expected, _ = _fused(method_cases.Case(name), *tensors)
        hidden, head, labels, arguments = tensors
        result = fused_loss(name, hidden, head, labels, **arguments, chunk_size=RAGGED)

        def close(left, right):
            np.testing.assert_allclose(left, right, rtol=1e-13, atol=1e-16)

        jax.tree.map(close, result, expected)


def test_a_cotangent_scales_both_gradients_and_metrics_have_none():
    hidden, head, labels, arguments = loss_problems.problem("float32")

    def total(hidden, head):
        loss, metrics = fused_loss("dft", hidden, head, labels, **arguments)
        return -3.5 * loss + sum(metrics.values())

    _, gradients = _fused(method_cases.Case("dft"), hidden, head, labels, arguments)
    for left, right in zip(jax.grad(total, (0, 1))(hidden, head), gradients):
        np.testing.assert_allclose(left, -3.5 * right, rtol=1e-6, atol=1e-9)


def test_no_gradient_to_second_models_weights_and_columns():
    hidden, head, labels, arguments = loss_problems.problem("float32")
    moving = {k: v for k, v in arguments.items() if k != "critical_mask"}
    for name in ("target_sft", "iw_sft"):

        def loss(moving, name=name):
            return fused_loss(name, hidden, head, labels, **moving)[0]

        for leaf in jax.tree.leaves(jax.grad(loss)(moving)):
            np.testing.assert_array_equal(leaf, 0)


def test_values_at_weight_zero_are_not_read():
    """Out-of-range labels and NaN columns do not change loss and gradients."""
    hidden, head, labels, arguments = loss_problems.problem("float32")
    off = arguments["weights"] == 0
    assert off.any() and (np.asarray(labels)[off] == loss_problems.GARBAGE).all()
    for name in ("iw_sft", "psft"):
        expected = _fused(method_cases.Case(name), hidden, head, labels, arguments)
        garbage = {
            **arguments,
            "trajectory_weight": np.where(off, np.nan, arguments["trajectory_weight"]),
            "old_logprob": np.where(off, -np.inf, arguments["old_logprob"]),
        }
        huge = jnp.where(off, 2**30, labels)
        result = _fused(method_cases.Case(name), hidden, head, huge, garbage)
        jax.tree.map(np.testing.assert_array_equal, result, expected)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["target_sft", "label_smoothing"])
@pytest.mark.parametrize("real", [None, 40, 1])
def test_heads_of_different_length_share_the_smallest_vocabulary(name: str, real):
    """Rows past the real vocabulary get no probability and no gradient."""
    case = method_cases.Case(name)
    rows = real or loss_problems.V
    with jax.enable_x64(True):
        hidden, head, _, arguments = loss_problems.problem("float64", "all", 11)
        labels = jnp.arange(48).reshape(8, 6) % rows
        short = loss_problems.cut(arguments, rows)
        expected, gradients = _oracle(case, hidden, head[:rows], labels, short)
        tensors = (hidden, head, labels, arguments)
        (loss, _), result = _fused(case, *tensors, real=real)
        floor = float(jnp.abs(head).max())
        _assert_close(loss, expected, "float64", 64, 1.0)
        _assert_close(result[0], gradients[0], "float64", 64, floor)
        _assert_close(result[1][:rows], gradients[1], "float64", 64, floor)
        assert result[1].shape == head.shape and not np.any(result[1][rows:])


def test_a_student_head_longer_than_the_teachers():
    case = method_cases.Case("target_sft")
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "all")
        expected, gradients = _fused(case, hidden, head, labels, arguments)
        long = jnp.concatenate([head, 9 * jnp.ones((7, loss_problems.D))])
        result, (d_hidden, d_head) = _fused(case, hidden, long, labels, arguments)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    np.testing.assert_array_equal(d_hidden, gradients[0])
    np.testing.assert_array_equal(d_head[: loss_problems.V], gradients[1])
    np.testing.assert_array_equal(d_head[loss_problems.V :], 0)


def _focal(logits, labels, *, power, boost=None, length=None, teacher_logits=None):
    log_p = jax.nn.log_softmax(logits)
    log_p = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    loss = -((1 - jnp.exp(log_p)) ** power) * log_p
    if boost is not None:
        loss = loss * boost
    if length is not None:
        loss = loss / length
    if teacher_logits is not None:
        loss = loss - (jax.nn.softmax(teacher_logits) * jax.nn.log_softmax(logits)).sum(
            -1
        )
    return loss


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "chunk, array", [(5, np.asarray), (5, jnp.asarray), (100, np.asarray)]
)
def test_a_users_loss_equals_its_dense_autodiff(chunk: int, array):
    """numpy and jax columns are chunked; the loss has no derivative at padding."""
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes")
        w, teacher = arguments["weights"], arguments["teacher"]
        columns = {
            "boost": array(np.linspace(1, 2, 48).reshape(8, 6)),
            "length": array(np.arange(1.0, 49).reshape(8, 6)),
        }

        def dense(hidden, head):
            logits = (hidden @ head.T).reshape(48, -1)
            flat = {key: jnp.asarray(x).reshape(48) for key, x in columns.items()}
            t = (teacher[0] @ teacher[1].T).reshape(48, -1)
            y = jnp.where(w == 0, 0, labels).reshape(48)
            value = _focal(logits, y, power=2.0, **flat, teacher_logits=t)
            return (w.reshape(48) * value).sum()

        def fused(hidden, head):
            return fused_loss(
                _focal,
                hidden,
                head,
                labels,
                weights=w,
                teacher=teacher,
                chunk_size=chunk,
                power=2.0,
                **columns,
            )

        expected, gradients = jax.value_and_grad(dense, (0, 1))(hidden, head)
        (loss, metrics), result = jax.value_and_grad(fused, (0, 1), has_aux=True)(
            hidden, head
        )
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for left, right in zip(result, gradients):
        _assert_close(left, right, "float64", 64)
    names = {"nll", "entropy", "label_prob", "accuracy", "kl_teacher", "labels_outside"}
    assert names == set(metrics)


def test_a_users_loss_gets_no_label_outside_the_vocabulary():
    """A gather at −100 wraps around or fills with NaN, by jax's mode."""
    hidden, head, labels, arguments = loss_problems.problem("float32")
    assert (np.asarray(labels) == loss_problems.GARBAGE).any()

    def outside(logits, labels):
        wrong = (labels < 0) | (labels >= logits.shape[-1])
        return jnp.full(labels.shape, jnp.any(wrong), logits.dtype)

    tensors = (outside, hidden, head, labels)
    assert fused_loss(*tensors, weights=arguments["weights"])[0] == 0


def test_labels_outside_the_vocabulary_are_counted_under_jit():
    """-100 with a weight is an error, and a named metric where it cannot raise."""
    hidden, head, labels, arguments = loss_problems.problem("float32")
    weights = np.array(arguments["weights"])
    labels = np.where(weights == 0, -100, labels)
    compiled = jax.jit(fused_loss, static_argnums=0)
    _, metrics = compiled("sft", hidden, head, labels, weights=weights)
    assert metrics["labels_outside"] == 0
    wrong = labels.copy()
    wrong[tuple(np.argwhere(weights)[:2].T)] = -100
    with pytest.raises(ValueError, match="label -100 at index"):
        fused_loss("sft", hidden, head, wrong, weights=weights)
    loss, metrics = compiled("sft", hidden, head, wrong, weights=weights)
    assert np.isnan(loss) and metrics["labels_outside"] == 2


def test_without_weights_the_loss_is_the_mean():
    hidden, head, labels, _ = loss_problems.problem("float32")
    labels = np.abs(np.asarray(labels)) % loss_problems.V
    loss, metrics = fused_loss("sft", hidden, head, labels, vocab_size=loss_problems.V)
    logits = hidden.astype("float32") @ head[: loss_problems.V].T
    log_p = np.asarray(jax.nn.log_softmax(logits))
    mean = -np.take_along_axis(log_p, labels[..., None], -1).mean()
    np.testing.assert_allclose([loss, metrics["nll"]], mean, rtol=1e-5)
    np.testing.assert_allclose(metrics["gamma"], 1, rtol=1e-5)


def test_gamma_per_token_goes_through_the_chunks():
    hidden, head, labels, arguments = loss_problems.problem("float32")
    gamma = np.linspace(0, 1, 48, dtype=np.float32).reshape(8, 6)
    case = method_cases.Case("target_sft", {"gamma": gamma})
    losses = [
        fused_loss(
            case.name, hidden, head, labels, **arguments, chunk_size=c, gamma=gamma
        )[0]
        for c in (7, 48)
    ]
    expected = reference_loss(case.name, hidden, head, labels, **arguments, gamma=gamma)
    np.testing.assert_allclose(losses, [expected] * 2, rtol=1e-5)


def test_refused():
    hidden, head, labels, arguments = loss_problems.problem("float32")
    w = arguments["weights"]

    def run(name="sft", hidden=hidden, head=head, labels=labels, **changes):
        fused_loss(name, hidden, head, labels, **{"weights": w, **changes})

    for pattern, changes in (
        ("no method 'stf'", {"name": "stf"}),
        ("no hyper-parameter eta", {"eta": 0.5}),
        ("'kd' needs teacher_logits", {"name": "kd"}),
        ("'iw_sft' needs trajectory_weight", {"name": "iw_sft"}),
        (
            "teacher_logits is an input of .*pass fused_loss teacher=",
            {"name": "kd", "teacher_logits": np.ones((8, 6, 53))},
        ),
        ("chunk_size is 0", {"chunk_size": 0}),
        ("chunk_size is 2.5", {"chunk_size": 2.5}),
        ("chunk_size is True", {"chunk_size": True}),
        ("vocab_size is 2.5", {"vocab_size": 2.5}),
        ("have a dimension of 0", {"head": head[:0]}),
        ("hidden is complex64; expected real", {"hidden": hidden * 1j}),
        (r"teacher is \w+; expected \(hidden", {"name": "kd", "teacher": hidden}),
        ("teacher's hidden", {"name": "kd", "teacher": (hidden, head[:, :3])}),
        ("label .* is outside the vocabulary", {"vocab_size": 40}),
        ("vocab_size is 54", {"vocab_size": 54}),
        ("vocab_size is 0", {"vocab_size": 0}),
        ("do not fit", {"head": head[:, :-1]}),
        (r"labels has \(8, 5\)", {"labels": labels[:, :5]}),
        (r"weights has \(8,\)", {"weights": w[:, 0]}),
        (r"teacher_logits has", {"name": "kd", "teacher": (hidden[:4], head)}),
        # [L, B] has the size of [B, L], and reshaping would mix the rows.
        ("trajectory_weight has", {"name": "iw_sft", "trajectory_weight": w.T}),
        ("expected one loss per token", {"name": lambda z, y: z}),
    ):
        with pytest.raises(ValueError, match=pattern):
            run(**changes)


def test_hard_logits_give_finite_gradients():
    """Logits of ±1e4 and labels of probability 0, in float32."""
    head = jnp.eye(7, dtype=jnp.float32)
    tile = method_cases.tile()
    finite = np.isfinite(tile["logits"]).all(-1) & np.isfinite(tile["old_logprob"])
    tile = {k: v[finite] for k, v in tile.items()}
    # With an identity head, hidden states are the logits.
    hidden = jnp.asarray(tile["logits"], jnp.float32)
    second = jnp.asarray(np.maximum(tile["teacher_logits"], -1e9), jnp.float32)
    arguments = {
        "weights": jnp.ones(len(hidden)),
        "teacher": (second, head),
        "reference": (second, head),
        "trajectory_weight": tile["trajectory_weight"].astype(np.float32),
        "critical_mask": tile["critical_mask"],
        "old_logprob": tile["old_logprob"].astype(np.float32),
    }
    for name in ("alpha", "psft", "gem", "target_sft"):
        (loss, metrics), result = _fused(
            method_cases.Case(name), hidden, head, tile["labels"], arguments, 9
        )
        for leaf in jax.tree.leaves((loss, metrics, result)):
            assert np.isfinite(leaf).all(), name
