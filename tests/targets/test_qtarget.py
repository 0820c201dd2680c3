"""The normal form: Q, its residual and its gradient from a, b and T."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.targets import QTarget
from targetsft_jax.targets.rows import Rows

RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(size=(2, 5, 6))
LABELS = np.arange(5)
A, B = np.linspace(0.1, 0.9, 5), np.linspace(0.6, -0.2, 5)


@pytest.fixture
def terms():
    """Target, p, δ and T in float64."""
    with jax.enable_x64(True):
        rows = Rows(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(OTHER))
        p, t = jax.nn.softmax(LOGITS), jax.nn.softmax(OTHER)
        q = QTarget(jnp.asarray(A), jnp.asarray(B), (0, 1)).bind(rows)
        yield q, p, np.eye(6)[LABELS], t


def _close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-13, atol=1e-15)


def test_the_normal_form(terms):
    q, p, delta, t = terms
    a, b = A[:, None], B[:, None]
    gradient = a * (p - delta) + b * (p - t)
    _close(q.logit_gradient(), gradient)
    _close(q.induced(), p - gradient)
    _close(q.rescaled(), (a * delta + b * t) / (a + b))
    _close(q.strength, A + B)
    _close(q.negative_mass(), np.maximum(0, gradient - p).sum(-1))
    _close(A[:, None] * delta + (1 - a) * q.residual(), q.induced())
    np.testing.assert_array_equal(q.proper, q.negative_mass() < 1e-14)


def test_weights_scale_the_gradient_and_zero_removes_it(terms):
    q = terms[0]
    weights = np.array([0.0, 1.0, 2.0, 0.5, 0.0])
    _close(q.weighted(weights).logit_gradient(), weights[:, None] * q.logit_gradient())


def test_values_differ_by_a_constant(terms):
    """Cross-entropy and divergence have the same derivative, the logit gradient."""
    q, p, _, t = terms
    entropy = -(t * np.log(t)).sum(-1)
    _close(q.cross_entropy() - q.divergence(), B * entropy)
    kl = (t * np.log(t / p)).sum(-1)
    _close(q.divergence(), -A * np.log(p[LABELS, LABELS]) + B * kl)

    for value in (QTarget.cross_entropy, QTarget.divergence):

        def total(logits, value=value):
            rows = Rows(logits, jnp.asarray(LABELS), jnp.asarray(OTHER))
            fresh = QTarget(jnp.asarray(A), jnp.asarray(B), (0, 1)).bind(rows)
            return jnp.sum(value(fresh))

        _close(jax.grad(total)(jnp.asarray(LOGITS)), q.logit_gradient())


def test_scores_replace_a_mix(terms):
    q = terms[0]
    scores = QTarget(q.label_weight, q.alternative_weight, scores=jnp.asarray(OTHER))
    _close(scores.bind(q.rows).induced(), q.induced())


def test_the_representation_has_shapes_and_means_but_no_arrays(terms):
    q, *_ = terms
    text = repr(q)
    assert text == (
        "QTarget(5 tokens, V = 6; γ mean 0.5 (0.1 to 0.9); b mean 0.2 (-0.2 to 0.6); "
        "T = softmax(other))"
    )
    assert repr(QTarget(jnp.ones((2, 3)))) == "QTarget(γ 1)"
    mixed = QTarget(jnp.ones(2), jnp.ones(2), (0.25, 0.75))
    assert repr(mixed).endswith("b 1; T = softmax(0.25·student + 0.75·other))")
    assert repr(QTarget(jnp.ones(2), jnp.ones(2), (0, 0))).endswith("T uniform)")
    traced = []
    jax.jit(lambda a: traced.append(repr(QTarget(a))) or a)(jnp.ones((2, 3)))
    assert traced == ["QTarget(γ (2, 3))"]
