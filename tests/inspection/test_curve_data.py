"""Curves of the page against formulas written out, in the stated setting."""

import numpy as np
import pytest

from targetsft_jax.config.load import parse
from targetsft_jax.inspection.curve_data import REFERENCE, SHARE, TEACHER, curve_data
from targetsft_jax.inspection.method_inputs import page_methods
from targetsft_jax.targets.methods import METHODS

CLOSE = dict(atol=2e-5)


@pytest.fixture(scope="module")
def curve() -> dict:
    config = parse(["--target.name", "target_sft", "--target.eta", "0.5"])
    return curve_data(page_methods(config, ["student"], [], "student"))


def test_every_method_has_a_curve(curve) -> None:
    assert curve["methods"].keys() == METHODS.keys() - {"custom"}
    assert len(curve["p"]) == 101 and curve["p"] == sorted(curve["p"])
    for name, lines in curve["methods"].items():
        for key, values in lines.items():
            assert len(values) == 101 and np.isfinite(values).all(), (name, key)


def test_curves_equal_their_formulas(curve) -> None:
    p = np.clip(np.linspace(0, 1, 101), 1e-3, 1 - 1e-3)
    other = (1 - p) * SHARE
    rest = (1 - p - other) / 18
    t_rest = (1 - sum(TEACHER)) / 18
    guided = [np.sqrt(x * t) for x, t in zip((p, other, rest), (*TEACHER, t_rest))]
    total = guided[0] + guided[1] + 18 * guided[2]
    expected = {
        "sft": (np.ones_like(p), np.zeros_like(p)),
        "dft": (p + p * (1 - p), other * (1 - p)),
        "kd": (TEACHER[0] + 0 * p, TEACHER[1] + 0 * p),
        "kl": (1 + 0.05 * (REFERENCE[0] - p), 0.05 * (REFERENCE[1] - other)),
        "label_smoothing": (0.9 + 0.1 / 20 + 0 * p, 0.1 / 20 + 0 * p),
        "target_sft": (
            p + (1 - p) * guided[0] / total,
            (1 - p) * guided[1] / total,
        ),
    }
    for name, (label, of_other) in expected.items():
        lines = curve["methods"][name]
        np.testing.assert_allclose(lines["label_target"], label, **CLOSE)
        np.testing.assert_allclose(lines["other_target"], of_other, **CLOSE)
        np.testing.assert_allclose(lines["label_gradient"], p - label, **CLOSE)
        np.testing.assert_allclose(lines["other_gradient"], other - of_other, **CLOSE)
