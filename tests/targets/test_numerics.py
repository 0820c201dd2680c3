"""Accuracy where a naive formula has no correct digits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import objective, target
from targetsft_jax.targets.rows import Rows

LABEL = np.array([0])


def _row(log_odds: float) -> np.ndarray:
    """Three tokens: the label at `log_odds`, the others at 0 and −1."""
    return np.array([[log_odds, 0.0, -1.0]])


def _value_and_gradient(name, logits, **arguments):
    def loss(z):
        return objective(name, z, LABEL, **arguments)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("gap", [0.5, 5.0, 12.0, 40.0, 97.0, 300.0, 700.0])
def test_complement_keeps_its_relative_accuracy(gap: float):
    """1 − p_y down to 1e-304, and the label's gradient with it, in float64."""
    wide = np.exp(_row(gap)[0].astype(np.longdouble) - np.longdouble(gap))
    complement = float(wide[1:].sum() / wide.sum())
    nll = float(np.log1p(wide[1:].sum()))
    # exp(−gap − 1) inherits the rounding of its exponent, ε·(gap + 1)/2.
    rtol = (4 + gap) * np.finfo(float).eps
    with jax.enable_x64(True):
        rows = Rows(jnp.asarray(_row(gap)), jnp.asarray(LABEL))
        np.testing.assert_allclose(rows.complement[0], complement, rtol=rtol)
        np.testing.assert_allclose(rows.nll[0], nll, rtol=rtol)
        sft = target("sft", _row(gap), LABEL)
        np.testing.assert_allclose(-sft.logit_gradient()[0, 0], complement, rtol=rtol)
        # Target-SFT: g_y = −(1 − p_y) u_y.
        guided = target("target_sft", _row(gap), LABEL, teacher_logits=_row(1.0))
        mixed = np.exp((_row(gap) + _row(1.0))[0] / 2 - gap / 2)
        u = mixed[0] / mixed.sum()
        g = guided.logit_gradient()[0, 0]
        np.testing.assert_allclose(-g, complement * u, rtol=rtol)
        # Subtraction cancels the last digits, and all of them below e^-37.
        if gap >= 40:
            assert 1 - rows.prob[0] == 0 < rows.complement[0]
        value, gradient = _value_and_gradient("sft", _row(gap))
        np.testing.assert_allclose(value, nll, rtol=rtol)
        np.testing.assert_allclose(-gradient[0, 0], complement, rtol=rtol)


@pytest.mark.parametrize("log_odds", [-20.0, -80.0, -104.0, -1000.0])
def test_log_probability_has_no_floor_in_float32(log_odds: float):
    expected = log_odds - math.log1p(math.exp(-1) + math.exp(log_odds))
    value, gradient = _value_and_gradient("sft", _row(log_odds).astype(np.float32))
    np.testing.assert_allclose(value, -expected, rtol=2e-7)
    np.testing.assert_allclose(gradient[0, 0], -1, rtol=2e-7)


@pytest.mark.parametrize("alpha", [1e-12, 1e-8, 1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("log_odds", [3.0, -1.0, -50.0])
def test_alpha_keeps_its_value_near_zero(alpha: float, log_odds: float):
    """(1 − p^α)/α in float32, where the naive formula is 0 at α = 1e-8."""
    log_p = -math.log1p(math.exp(-log_odds) * (1 + math.exp(-1)))
    expected = -math.expm1(alpha * log_p) / alpha
    value, _ = _value_and_gradient("alpha", _row(log_odds).astype("f4"), alpha=alpha)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("exponent", [-0.5, -0.7, -2.0, -10.0, -20.0, -60.0])
@pytest.mark.parametrize("alpha", [0.5, 2.0, 8.0])
def test_alpha_keeps_its_derivative_where_the_weight_is_small(
    alpha: float, exponent: float
):
    """∂/∂z_y = −p^α (1 − p): the derivative of expm1 is 100 % off at p^α = e^-20."""
    log_p = exponent / alpha
    log_odds = log_p - math.log(-math.expm1(log_p)) + math.log(1 + math.exp(-1))
    expected = math.exp(exponent) * math.expm1(log_p)
    logits = _row(log_odds).astype(np.float32)
    _, gradient = _value_and_gradient("alpha", logits, alpha=alpha)
    # Roundings of the input, of log p and of α·log p, each relative to its size.
    rtol = (8 + 4 * abs(exponent) + alpha * abs(log_odds)) * 2.0**-24
    np.testing.assert_allclose(gradient[0, 0], expected, rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("alpha", [-0.01, -0.3, -0.5, -1.0])
def test_negative_alpha_stays_finite(alpha: float, dtype: str):
    """p^α leaves the range of any float: the weight is clamped, the value continues."""
    with jax.enable_x64(dtype == "float64"):
        for log_odds in (-10.0, -60.0, -200.0, -1e3, -1e5, -np.inf):
            logits = _row(log_odds).astype(dtype)
            q = target("alpha", logits, LABEL, alpha=alpha)
            twin = target("custom", logits, LABEL, gamma={"power": alpha})
            assert np.isfinite(q.logit_gradient()).all()
            assert np.isfinite(q.induced()).all()
            np.testing.assert_array_equal(twin.gamma, q.gamma)
            value, gradient = _value_and_gradient("alpha", logits, alpha=alpha)
            assert value > 0
            np.testing.assert_allclose(gradient, q.logit_gradient(), rtol=2e-5)


def test_a_power_of_zero_is_one_also_for_an_impossible_label():
    q = target("custom", _row(-np.inf), LABEL, gamma={"power": 0.0})
    assert q.gamma[0] == 1 and np.isfinite(q.logit_gradient()).all()


def test_ratio_of_probabilities_cannot_overflow():
    """PSFT with log r from −1e4 to 1e4: clipped in log space, no NaN."""
    logits = _row(0.0).astype(np.float32)
    for old in (-1e4, -200.0, -1.0, -1e-3, 1e4, -np.inf):
        old = np.array([old], np.float32)
        value, gradient = _value_and_gradient("psft", logits, old_logprob=old)
        assert -1.28 - 1e-6 <= value <= 0 and np.isfinite(gradient).all()
        q = target("psft", logits, LABEL, old_logprob=old)
        np.testing.assert_allclose(gradient, q.logit_gradient(), atol=1e-6)


def test_guided_prior_of_disjoint_models_has_no_pull():
    """No token has mass under both models: b becomes 0, a is unchanged."""
    student = np.array([[0.0, 1.0, -np.inf]])
    teacher = np.array([[-np.inf, -np.inf, 0.0]])
    q = target("target_sft", student, LABEL, teacher_logits=teacher)
    assert q.alternative_weight[0] == 0
    dft = target("dft", student, LABEL)
    np.testing.assert_allclose(q.logit_gradient(), dft.logit_gradient(), atol=1e-7)
    np.testing.assert_allclose(q.induced().sum(), 1, atol=1e-6)
    # With η = 1 the mix is the teacher alone, which has support.
    q = target("target_sft", student, LABEL, teacher_logits=teacher, eta=1.0)
    assert q.alternative_weight[0] > 0 and q.logit_gradient()[0, 2] < 0


def test_a_tempered_student_does_not_round_at_the_size_of_its_logits():
    """T of GEM depends on differences; logits of 3e4 / 0.7 are 0.004 apart."""
    plain = np.array([[0.5, -1.25, 2.0, 0.0]], np.float32)
    near = target("gem", plain, LABEL).logit_gradient()
    far = target("gem", plain + np.float32(2**15), LABEL).logit_gradient()
    # Quarters are exact also near 2^15, so only the function rounds.
    np.testing.assert_allclose(far, near, rtol=0, atol=2e-7)


def test_entropy_weight_is_that_of_the_top_tokens():
    """H of the k largest, renormalised, over ln k; from the definition in NumPy."""
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(5, 40)) * 3, np.zeros(5, int)
    # Padding has no effect below the top k or inside: 0·(−inf) counts as 0.
    wide = np.pad(logits, ((0, 0), (0, 9)), constant_values=-np.inf)
    with jax.enable_x64(True):
        for k in (2, 7, 20, 40, 60):
            top = -np.sort(-logits, -1)[:, :k]
            p = np.exp(top) / np.exp(top).sum(-1, keepdims=True)
            share = -(p * np.log(p)).sum(-1) / math.log(k)
            for tile in (logits, wide):
                gamma = target("eaft", tile, labels, top_k=k).gamma
                np.testing.assert_allclose(gamma, share, rtol=1e-13)


def test_threshold_is_decided_in_float32_on_bfloat16_logits():
    """p = 0.5009 rounds to 0.5 in bfloat16, but is above a threshold of 0.5."""
    logits = jnp.asarray([[0.00361, 0.0]], jnp.bfloat16)
    p = jax.nn.softmax(logits.astype(jnp.float32))[0, 0]
    assert 0.5 < p and p.astype(jnp.bfloat16) == 0.5
    assert target("profit", logits, LABEL, tau=0.5).gamma[0] == 1


def test_threshold_itself_is_not_above_it():
    """p = τ exactly: p > τ as in the paper, unlike p ≥ τ in its code."""
    q = target("profit", np.zeros((1, 2), np.float32), LABEL, tau=0.5)
    assert q.gamma[0] == 0
