"""Stored and mixed second models against dense logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import loss_problems
from support.mesh_layouts import layout_of
from support.quick import quicker

from targetsft_jax import fused_loss
from targetsft_jax.loss import Mixture, TopK, reference_loss
from targetsft_jax.targets import completed_logits, top_k

V = loss_problems.V
K = 9


def _dense(model):
    hidden, head = model
    return hidden @ head.T


def _value_and_gradients(loss, hidden, head):
    run = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=quicker())
    return run(hidden, head)


def _assert_equal(actual, expected, tolerance=1e-12):
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)
        assert np.any(right)


def _fused_and_dense(name, second, logits_of, **options):
    """Losses with a second model in the fused loss, and with its dense logits.

    Args:
        name: the method.
        second: arguments -> the teacher of the fused loss.
        logits_of: (student logits, arguments) -> the teacher's dense logits.
    """
    hidden, head, labels, arguments = loss_problems.problem("float64", "holes")
    weights = arguments["weights"]

    def fused(hidden, head):
        teacher = second(arguments)
        return fused_loss(
            name, hidden, head, labels, weights=weights, teacher=teacher, **options
        )[0]

    def dense(hidden, head):
        student = jax.lax.stop_gradient(hidden @ head.T)
        # Hidden states that are the logits, under a head that changes nothing.
        teacher = (logits_of(student, arguments), jnp.eye(V))
        return reference_loss(
            name, hidden, head, labels, weights=weights, teacher=teacher
        )

    return (
        _value_and_gradients(fused, hidden, head),
        _value_and_gradients(dense, hidden, head),
    )


def _completed(student, stored):
    """π̂ by its definition, token by token in numpy."""
    student, ids = np.asarray(student), np.asarray(stored.ids)
    result = np.zeros_like(student)
    for index in np.ndindex(student.shape[:-1]):
        p = np.exp(student[index] - student[index].max())
        p[ids[index]] = 0
        p *= np.exp(stored.log_rest[index]) / p.sum()
        p[ids[index]] = np.exp(stored.log_probs[index])
        result[index] = p
    return np.log(result)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("target_sft", None),
        ("kd_h", None),
        ("jsd", None),
        ("target_sft", "all three"),
        ("target_sft", "fsdp groups"),
    ],
)
def test_a_stored_teacher_is_completed_by_the_students_tail(name, layout):
    with jax.enable_x64(True):
        options = {} if layout is None else {"layout": layout_of(layout)}

        def logits_of(student, arguments):
            stored = top_k(_dense(arguments["teacher"]), K)
            shape = jax.ShapeDtypeStruct(student.shape, student.dtype)
            return jax.pure_callback(_completed, shape, student, stored)

        _assert_equal(
            *_fused_and_dense(
                name,
                lambda arguments: top_k(_dense(arguments["teacher"]), K),
                logits_of,
                chunk_size=4,
                **options,
            )
        )


def test_all_tokens_stored_equal_the_live_teacher():
    with jax.enable_x64(True):
        _assert_equal(
            *_fused_and_dense(
                "target_sft",
                lambda arguments: top_k(_dense(arguments["teacher"]), V),
                lambda _, arguments: _dense(arguments["teacher"]),
            )
        )


def test_divergence_from_a_completed_teacher_is_that_of_the_coarse_distributions():
    """Over K and "other": KL(π̂ ‖ p) >= 0, at most KL(π ‖ p), and grows with k."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        student, teacher = (rng.normal(size=(20, 200)) * 3 for _ in range(2))
        p, t = (np.asarray(jax.nn.softmax(x)) for x in (student, teacher))
        full = np.sum(t * np.log(t / p), -1)
        previous = 0
        for k in (1, 8, 64):
            stored = top_k(jnp.asarray(teacher), k)
            completed = completed_logits(jnp.asarray(student), stored)
            inside = np.zeros(t.shape, bool)
            np.put_along_axis(inside, np.asarray(stored.ids), True, -1)
            coarse = np.sum(np.where(inside, t * np.log(t / p), 0), -1)
            m_t, m_p = (np.sum(np.where(inside, 0, x), -1) for x in (t, p))
            coarse += m_t * np.log(m_t / m_p)
            pi = np.exp(completed)
            np.testing.assert_allclose(pi.sum(-1), 1)
            actual = np.sum(pi * (completed - np.log(p)), -1)
            np.testing.assert_allclose(actual, coarse, atol=1e-12)
            assert np.all(actual >= previous) and np.all(actual <= full)
            previous = actual


def test_a_tail_of_tiny_mass_is_accurate_in_float32():
    """1 − Σ K would be rounding alone: both tails are sums over the tail."""
    logits = np.zeros((1, 100), np.float32)
    logits[0, 0] = 30.0
    stored = top_k(jnp.asarray(logits), 1)
    exact = np.log(99) - np.log(np.exp(30.0) + 99)
    np.testing.assert_allclose(stored.log_rest[0], exact, rtol=1e-6)
    completed = completed_logits(jnp.asarray(logits), stored)
    np.testing.assert_allclose(completed[0, 1:], -np.log(np.exp(30.0) + 99), rtol=1e-6)


def test_a_teacher_without_a_tail_teaches_only_its_tokens():
    stored = TopK(
        jnp.array([[2, 0]]), jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([-jnp.inf])
    )
    completed = jnp.exp(completed_logits(jnp.ones((1, 4)), stored))
    np.testing.assert_allclose(completed, [[0.25, 0, 0.75, 0]], rtol=1e-6)


@pytest.mark.parametrize("space", ["logits", "probabilities"])
@pytest.mark.parametrize("layout", [None, "fsdp groups"])
def test_mixtures_of_teachers_equal_dense_mixtures(space, layout):
    """A live teacher of one width, one of another under a cap, and a stored one."""
    weights = (1.0, 2.0, 1.0)
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        shape = loss_problems.B, loss_problems.L
        narrow = (rng.normal(size=(*shape, 8)), rng.normal(size=(V + 3, 8)))

        def second(arguments):
            live = arguments["teacher"]
            stored = top_k(_dense(live) / 2, V)
            caps = (None, 2.0, None)
            return Mixture((live, narrow, stored), weights, space, caps)

        def logits_of(_, arguments):
            live = _dense(arguments["teacher"])
            raw = jnp.asarray(narrow[0] @ narrow[1][:V].T)
            parts = [live, 2 * jnp.tanh(raw / 2), live / 2]
            shares = np.array(weights) / sum(weights)
            if space == "logits":
                return sum(share * x for share, x in zip(shares, parts))
            return jnp.log(
                sum(share * jax.nn.softmax(x) for share, x in zip(shares, parts))
            )

        options = {} if layout is None else {"layout": layout_of(layout)}
        _assert_equal(
            *_fused_and_dense("target_sft", second, logits_of, chunk_size=5, **options)
        )


@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_a_mixture_of_one_is_that_model(space):
    with jax.enable_x64(True):
        _assert_equal(
            *_fused_and_dense(
                "kd_h",
                lambda arguments: Mixture([arguments["teacher"]], space=space),
                lambda _, arguments: _dense(arguments["teacher"]),
            )
        )


def test_a_users_loss_reads_the_completed_logits():
    hidden, head, labels, arguments = loss_problems.problem("float32", "all")
    stored = top_k(_dense(arguments["teacher"]), K)

    def divergence(logits, labels, teacher_logits):
        log_t = jax.nn.log_softmax(teacher_logits)
        gap = log_t - jax.nn.log_softmax(logits)
        return jnp.sum(jnp.exp(log_t) * gap, -1)

    run = {"weights": arguments["weights"], "teacher": stored}
    loss, metrics = fused_loss(divergence, hidden, head, labels, **run)
    completed = completed_logits(hidden @ head.T, stored)
    expected = divergence(hidden @ head.T, labels, completed)
    np.testing.assert_allclose(
        loss, jnp.sum(arguments["weights"] * expected), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["kl_teacher"], loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda model: Mixture([]), "at least one"),
        (lambda model: Mixture([model], weights=[0.0]), "a weight of teacher is 0"),
        (lambda model: Mixture([model], weights=[1, 2]), "2 weights"),
        (lambda model: Mixture([model], space="odds"), "'logits' or 'probabilities'"),
        (lambda model: Mixture([model], caps=[-1.0]), "soft cap of teacher"),
        (lambda model: [model], "expected .hidden, head., TopK or Mixture"),
        (
            lambda model: TopK(
                np.zeros((8, 6, 2)), np.zeros((8, 6, 2)), np.zeros((8, 6))
            ),
            "ids are float64",
        ),
        (
            lambda model: TopK(
                np.zeros((8, 2), int), np.zeros((8, 6, 2)), np.zeros((8, 6))
            ),
            "do not fit",
        ),
        (
            lambda model: TopK(
                np.zeros((6, 8, 2), int), np.zeros((6, 8, 2)), np.zeros((6, 8))
            ),
            "hidden .* has tokens",
        ),
    ],
)
def test_refuses_models_that_do_not_fit(teacher, message):
    hidden, head, labels, arguments = loss_problems.problem("float32", "all")
    with pytest.raises(ValueError, match=message):
        fused_loss("kd_h", hidden, head, labels, teacher=teacher(arguments["teacher"]))


def test_refuses_a_cap_beside_a_mixture():
    hidden, head, labels, arguments = loss_problems.problem("float32", "all")
    teacher = Mixture([arguments["teacher"]])
    with pytest.raises(ValueError, match="set the caps of its models in the mixture"):
        fused_loss(
            "kd_h", hidden, head, labels, teacher=teacher, logit_caps={"teacher": 2.0}
        )
