"""Limits of methods at the ends of their hyper-parameters, as in the papers.

One example is computed by hand, so that a sign or a factor cannot be wrong in both the
code and the vectors.
"""

import jax
import numpy as np
import pytest
from support import method_cases

from targetsft_jax import METHODS, objective, target


@pytest.fixture(scope="module")
def batch():
    """Ordinary rows in float64, as (logits, labels, all inputs)."""
    golden, _ = method_cases.golden_tile(method_cases.GOLDEN_FILE)
    logits, labels = golden.pop("logits"), golden.pop("labels")
    with jax.enable_x64(True):
        yield logits, labels, golden


def _gradient(batch, name, **changes):
    logits, labels, inputs = batch
    return np.asarray(
        target(name, logits, labels, **{**inputs, **changes}).logit_gradient()
    )


def _same(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)


def test_by_hand():
    # p = (1/2, 1/4, 1/4) with the label at 1, teacher (1/8, 1/8, 3/4).
    # DFT: a = 1/4, g = (p - d)/4 = (1/8, -3/16, 1/16); Q = (3/8, 7/16, 3/16).
    # Target-SFT, eta = 1: Q = d/4 + 3/4 T = (3/32, 11/32, 18/32),
    #   g = p - Q = (13/32, -3/32, -10/32).
    # Target-SFT, eta = 1/2: sqrt(p T) ~ (sqrt(1/16), sqrt(1/32), sqrt(3/16))
    #   ~ (1, 1/sqrt 2, sqrt 3), their sum S = 3.4391575...
    # SFT + KL, lambda = 1: Q = d + T - p = (-3/8, 7/8, 1/2): negative mass 3/8.
    # GEM, beta = 1/2: q ~ p^2 ~ (4, 1, 1)/6; g = q - d = (2/3, -5/6, 1/6).
    # KD-H, lambda = 1/2: Q = (1/16, 9/16, 6/16).
    p, teacher = np.array([[0.5, 0.25, 0.25]]), np.array([[0.125, 0.125, 0.75]])
    label = np.array([1])
    models = {"teacher_logits": np.log(teacher), "reference_logits": np.log(teacher)}
    spread = np.array([1, 0.5**0.5, 3**0.5])
    guided = np.array([0, 0.25, 0]) + 0.75 * spread / spread.sum()
    expected = {
        ("dft",): [3 / 8, 7 / 16, 3 / 16],
        ("target_sft", "eta", 1.0): [3 / 32, 11 / 32, 18 / 32],
        ("target_sft", "eta", 0.5): guided,
        ("kl", "kl_weight", 1.0): [-3 / 8, 7 / 8, 1 / 2],
        ("gem", "beta", 0.5): [-1 / 6, 13 / 12, 1 / 12],
        ("kd_h", "kd_weight", 0.5): [1 / 16, 9 / 16, 6 / 16],
        ("label_smoothing", "smoothing", 0.3): [0.1, 0.8, 0.1],
    }
    with jax.enable_x64(True):
        for (name, *pair), q in expected.items():
            hyper = dict([pair]) if pair else {}
            actual = target(name, np.log(p), label, **models, **hyper)
            _same(actual.induced()[0], q)
            _same(actual.logit_gradient()[0], p[0] - q)
        # Values: DFT 1/4 log 4; PSFT with r = 1/4 over 1/5 = 1.25 <= 1.28 is -r.
        _same(objective("dft", np.log(p), label), [np.log(4) / 4])
        old = np.log([0.2])
        _same(objective("psft", np.log(p), label, old_logprob=old), [-1.25])
        # KL(T || p) = 1/8 log 1/4 + 1/8 log 1/2 + 3/4 log 3.
        kl = (np.log(1 / 4) + np.log(1 / 2)) / 8 + 3 / 4 * np.log(3)
        value = objective("kl", np.log(p), label, **models, kl_weight=2.0)
        _same(value, [np.log(4) + 2 * kl])
        actual = target("kl", np.log(p), label, **models, kl_weight=1.0)
        _same(actual.negative_mass(), [3 / 8])
        # Rescaled: (d + T)/2.
        _same(actual.rescaled()[0], [1 / 16, 9 / 16, 6 / 16])
        assert not actual.proper[0]
        # gamma = 1 determines no residual: T by convention, for every lambda, and not
        # the quotient of two rounding errors of (1 - a - b) + b.
        for weight in (0.05, 0.1, 1.0):
            actual = target("kl", np.log(p), label, **models, kl_weight=weight)
            _same(actual.residual(), teacher)
        assert np.isnan(target("gem", np.log(p), label).rescaled()).all()


def test_target_sft_at_its_corners(batch):
    inputs = batch[2]
    kd = _gradient(batch, "kd")
    same = {"teacher_logits": batch[0]}
    _same(_gradient(batch, "target_sft", eta=0.0), _gradient(batch, "dft"))
    for eta in (0.2, 0.5, 1.0):
        _same(_gradient(batch, "target_sft", eta=eta, **same), _gradient(batch, "dft"))
    _same(_gradient(batch, "target_sft", gamma=1.0), _gradient(batch, "sft"))
    _same(_gradient(batch, "target_sft", gamma=0.0, eta=1.0), kd)
    hybrid = _gradient(batch, "kd_h", kd_weight=0.7)
    _same(_gradient(batch, "target_sft", gamma=0.3, eta=1.0), hybrid)
    # A guided prior that differs from both models equals none of these.
    assert np.abs(_gradient(batch, "target_sft") - kd).max() > 0.01
    assert "teacher_logits" in inputs


def test_methods_that_become_sft(batch):
    sft = _gradient(batch, "sft")
    log_p = np.asarray(jax.nn.log_softmax(batch[0]))
    label_logp = np.take_along_axis(log_p, batch[1][:, None], -1)[:, 0]
    ones = np.ones(len(label_logp))
    for name, changes in {
        "alpha": {"alpha": 0.0},
        "gem": {"beta": 1.0},
        "psft": {"old_logprob": label_logp},
        "label_smoothing": {"smoothing": 0.0},
        "kl": {"kl_weight": 0.0},
        "kd_h": {"kd_weight": 0.0},
        "iw_sft": {"trajectory_weight": ones},
        "cft": {"critical_mask": ones > 0},
        "profit": {"tau": 0.0},
        "custom": {"gamma": 1.0},
    }.items():
        _same(_gradient(batch, name, **changes), sft)
    # gem with β = 1 has the gradient of SFT, but its value is 0 in expectation.
    gem = objective("gem", *batch[:2], beta=1.0)
    assert np.abs(gem - objective("sft", *batch[:2])).max() > 0.1


def test_methods_that_become_dft(batch):
    dft = _gradient(batch, "dft")
    _same(_gradient(batch, "alpha", alpha=1.0), dft)
    _same(_gradient(batch, "asft", kl_weight=0.0), dft)
    _same(_gradient(batch, "p_loss"), dft)
    _same(
        objective("alpha", *batch[:2], alpha=1.0), 1 - target("dft", *batch[:2]).gamma
    )
    asft, kl = (_gradient(batch, name, kl_weight=0.3) for name in ("asft", "kl"))
    _same(asft - dft, kl - _gradient(batch, "sft"))


def test_psft_does_not_clip_a_ratio_at_its_clip(batch):
    """r = 1 + ε exactly: the rule is ≤, and its derivative is not halved."""
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    arguments = {"old_logprob": np.log([0.25]), "clip_epsilon": 0.0}
    q = target("psft", logits, np.array([1]), **arguments)
    assert q.gamma[0] == 1
    gradient = jax.grad(
        lambda z: objective("psft", z, np.array([1]), **arguments).sum()
    )(logits)
    _same(gradient, q.logit_gradient())


TWINS = {
    "sft": {"gamma": "constant"},
    "dft": {"gamma": "probability", "residual": "model"},
    "alpha": {"gamma": {"power": 0.5}},
    "profit": {"gamma": "threshold"},
    "eaft": {"gamma": "entropy"},
    "label_smoothing": {"gamma": 0.9, "residual": "uniform"},
    "kd": {"gamma": 0, "residual": "teacher"},
    "kd_h": {"gamma": {"constant": 0.5}, "residual": "teacher"},
    "target_sft": {"gamma": "probability", "residual": "guided"},
}


@pytest.mark.parametrize("name", TWINS)
def test_composed_targets_equal_their_named_methods(batch, name: str):
    _same(_gradient(batch, "custom", **TWINS[name]), _gradient(batch, name))


def test_other_composed_targets(batch):
    """Residuals that no method has, from their definitions."""
    logits, labels, inputs = batch
    p = jax.nn.softmax(logits)
    reference = inputs["reference_logits"]
    for residual, expected in {
        "tempered": jax.nn.softmax(logits / 0.7),
        "reference": jax.nn.softmax(reference),
        "guided_reference": jax.nn.softmax((logits + reference) / 2),
        "mixed": (p + jax.nn.softmax(inputs["teacher_logits"])) / 2,
        "model": p,
    }.items():
        q = target("custom", logits, labels, **inputs, gamma=0.25, residual=residual)
        _same(q.residual(), expected)


def test_mixed_residuals_end_at_the_model_and_at_the_teacher(batch):
    for gamma in (0.25, "probability"):
        for share, end in ((0.0, "model"), (1.0, "teacher")):
            mixed = _gradient(batch, "custom", gamma=gamma, residual={"mixed": share})
            _same(mixed, _gradient(batch, "custom", gamma=gamma, residual=end))


def test_reverse_kl_is_the_tangent_of_the_guided_residual(batch):
    """g = lim (p − G_η)/η at η = 0, with the error η/2 · p ∘ (Var D − D²) + O(η²).

    G_η = normalise(p^(1−η) π_T^η) and D = log(p / π_T) − KL(p ‖ π_T).
    """
    logits, labels, inputs = batch
    tangent = _gradient(batch, "reverse_kl")
    log_p = np.asarray(jax.nn.log_softmax(logits))
    log_t = np.asarray(jax.nn.log_softmax(inputs["teacher_logits"]))
    p = np.exp(log_p)
    centred = log_p - log_t - (p * (log_p - log_t)).sum(-1, keepdims=True)
    variance = (p * centred**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(tangent, p * centred, rtol=0, atol=1e-14)
    slope = p * (variance - centred**2) / 2
    distances, remainders = [], []
    for eta in (1e-2, 5e-3, 2.5e-3):
        q = target("target_sft", logits, labels, **inputs, gamma=0.0, eta=eta)
        secant = np.asarray(q.logit_gradient()) / eta
        distances.append(np.abs(secant - tangent).max())
        remainders.append(np.abs(secant - tangent - eta * slope).max())
    for wide, narrow in zip(distances, distances[1:]):
        assert 1.8 < wide / narrow < 2.2
    for wide, narrow in zip(remainders, remainders[1:]):
        assert 3.6 < wide / narrow < 4.4
    assert remainders[-1] < distances[-1] / 20


def test_taid_at_its_ends(batch):
    """No pull at the student, distillation at the teacher; also for η per token."""
    ends = np.arange(len(batch[1])) % 2.0
    kd = _gradient(batch, "kd")
    _same(_gradient(batch, "taid", eta=0.0), np.zeros_like(kd))
    _same(_gradient(batch, "taid", eta=1.0), kd)
    _same(_gradient(batch, "taid", eta=ends), ends[:, None] * kd)
    guided = _gradient(batch, "target_sft", gamma=0.0, eta=0.3)
    _same(_gradient(batch, "taid", eta=0.3), guided)


@pytest.mark.parametrize("name", ["target_sft", "taid"])
def test_a_guidance_per_token_equals_the_number(name: str):
    """Each token has its own η, logits of −inf at either end included."""
    case = method_cases.Case(name)
    with jax.enable_x64(True):
        tile = method_cases.tile()
        arrays = method_cases.inputs(case, tile, "float64")
        every = np.resize([0.0, 0.3, 1.0], len(tile["labels"]))
        for eta in (0.0, 0.3, 1.0):
            plain, arranged = (
                target(name, tile["logits"], tile["labels"], **arrays, eta=value)
                for value in (eta, every)
            )
            rows = every == eta
            np.testing.assert_allclose(
                np.asarray(arranged.logit_gradient())[rows],
                np.asarray(plain.logit_gradient())[rows],
                rtol=0,
                atol=1e-15,
            )


def test_every_golden_case_is_a_method():
    """Every vector has a method; a new method needs no vector."""
    assert {case.name for case in method_cases.GOLDEN.values()} <= set(METHODS)
