"""Row statistics against their definitions in long double."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.targets.rows import Rows, zero_safe_product

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3, 11)) * 3
LABELS = RNG.integers(0, 11, (4, 3))
OTHER = RNG.normal(size=(4, 3, 11)) * 2


def _softmax(logits):
    wide = np.exp(logits.astype(np.longdouble))
    return wide / wide.sum(-1, keepdims=True)


@pytest.fixture
def rows():
    with jax.enable_x64(True):
        yield Rows(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(OTHER))


def _close(left, right):
    np.testing.assert_allclose(left, np.asarray(right, float), rtol=1e-13, atol=1e-15)


def test_statistics_of_the_label_and_of_the_row(rows):
    p = _softmax(LOGITS)
    p_y = np.take_along_axis(p, LABELS[..., None], -1)[..., 0]
    is_label = np.arange(11) == LABELS[..., None]
    np.testing.assert_array_equal(rows.is_label, is_label)
    _close(rows.prob, p_y)
    _close(rows.complement, 1 - p_y)
    _close(rows.nll, -np.log(p_y))
    _close(rows.probabilities, p)
    _close(rows.minus_label, p - is_label)
    _close(rows.entropy, -(p * np.log(p)).sum(-1))
    np.testing.assert_array_equal(rows.correct, p.argmax(-1) == LABELS)
    _close(rows.power(0.5), np.sqrt(p_y))
    _close(rows.constant(0.25), np.full(LABELS.shape, 0.25))


@pytest.mark.parametrize("mix", [(0, 1), (0.5, 0.5), (1 / 0.7, 0), (0, 0)])
def test_an_alternative_is_the_softmax_of_its_mix(rows, mix):
    t, log_p = _softmax(mix[0] * LOGITS + mix[1] * OTHER), np.log(_softmax(LOGITS))
    alternative = rows.alternative(mix)
    _close(alternative.probabilities, t)
    _close(alternative.cross_entropy, -(t * log_p).sum(-1))
    _close(alternative.entropy, -(t * np.log(t)).sum(-1))
    assert alternative.supported.all()


def test_a_mix_of_a_missing_model_is_refused():
    with pytest.raises(ValueError, match="needs the logits of a second model"):
        Rows(jnp.asarray(LOGITS), jnp.asarray(LABELS)).alternative((0, 1))


def test_the_top_of_a_row(rows):
    largest = -np.sort(-LOGITS, -1)
    _close(rows.top(3), (largest - largest[..., :1])[..., :3])
    assert rows.top(99).shape == (4, 3, 11)


def test_zero_times_infinity_is_zero_and_so_are_its_derivatives():
    def product(weight, value):
        return zero_safe_product(weight, value)

    assert product(jnp.zeros(()), jnp.asarray(-jnp.inf)) == 0
    assert product(jnp.asarray(2.0), jnp.asarray(3.0)) == 6
    slopes = jax.grad(product, (0, 1))(jnp.zeros(()), jnp.asarray(-jnp.inf))
    assert slopes == (0, 0)
    assert jax.grad(product, (0, 1))(jnp.asarray(2.0), jnp.asarray(3.0)) == (3, 2)
