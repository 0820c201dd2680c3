"""Declarations of methods: hyper-parameters, domains, and the mix without logits."""

import jax.numpy as jnp
import numpy as np
import pytest
from support import method_cases

from targetsft_jax import METHODS, fused_loss, objective, target
from targetsft_jax.keys import between
from targetsft_jax.loss import reference_loss
from targetsft_jax.targets import Hyper, Method, QTarget
from targetsft_jax.targets.inputs import SECOND_MODELS

HYPERS = {
    (name, key): each
    for name, method in METHODS.items()
    for key, each in method.hyper.items()
}
# Values outside the domains, of the types of a configuration file.
REFUSED = {
    ("alpha", "alpha"): ["big", float("nan"), float("inf"), None, True, -30, 1e39],
    ("profit", "tau"): [-0.1, 1.0, None],
    ("eaft", "top_k"): [1, 2.5, "20", None, 0, -3, 2**40, True],
    ("eaft", "entropy_norm"): [0, -3.0, "log", False],
    ("eaft", "power"): [-1.0, float("inf")],
    ("label_smoothing", "smoothing"): [-0.1, 1.1],
    ("kl", "kl_weight"): [-0.05],
    ("asft", "kl_weight"): [-0.05],
    ("psft", "clip_epsilon"): [-0.2],
    ("gem", "beta"): [0.0, -0.7],
    ("gem", "variant"): ["cubic", 1, None],
    ("kd_h", "kd_weight"): [-0.5, 1.5],
    ("target_sft", "eta"): [-0.1, 1.5, None],
    ("target_sft", "gamma"): [-0.1, 1.5, "p"],
    ("custom", "gamma"): ["prob", {}, {"power": "x"}, {"entropy": 1}, True, None]
    + [{"threshold": 1.0}, {"power": 1.0, "entropy": 3}, {"power": float("nan")}]
    + [{"constant": 2}, 9, {"power": -30}, {"probability": 0.5}, {"entropy": 2.5}],
    ("custom", "residual"): ["prior", 0.5, {"tempered": 0}, {"guided": 2.0}, ["model"]]
    + [{"uniform": 1.0}, {"tempered": 1e-300}, {"guided": True}],
}
ACCEPTED = {
    ("alpha", "alpha"): [-0.5, 0, 8],
    ("eaft", "top_k"): [2, 20.0],
    ("eaft", "entropy_norm"): [None, 3],
    ("psft", "clip_epsilon"): [0],
    ("gem", "variant"): ["linear", "logsigmoid"],
    ("target_sft", "eta"): [0, 1],
    ("target_sft", "gamma"): [None, 0, 1.0, np.ones(3)],
    ("custom", "gamma"): [
        0.7,
        "power",
        {"power": -0.5},
        {"entropy": 4},
        {"constant": 1},
    ],
    ("custom", "residual"): ["guided", {"guided": 1}, {"tempered": 2.0}, "uniform"],
}


@pytest.mark.parametrize("name, key", HYPERS)
def test_a_domain_accepts_the_default_and_refuses_values_outside(name: str, key: str):
    hyper = HYPERS[name, key]
    for value in (hyper.default, *ACCEPTED.get((name, key), [])):
        assert hyper.refusal(key, value) is None, value
    for value in REFUSED.get((name, key), [[], float("nan")]):
        refusal = hyper.refusal(f"target.{key}", value)
        assert refusal is not None, value
        assert refusal.startswith(f"target.{key} is {value!r}; expected "), refusal
        complete = {**METHODS[name].defaults, key: value}
        assert METHODS[name].refusal(**complete) == hyper.refusal(key, value)


@pytest.mark.parametrize("name, key", HYPERS)
def test_every_hyper_parameter_has_help(name: str, key: str):
    words = HYPERS[name, key].help
    assert words[0].isupper() or words[0] in "γπ" or words.startswith("linear")
    assert words.endswith(".")


def test_integers_are_marked():
    assert HYPERS["eaft", "top_k"].integer and not HYPERS["eaft", "power"].integer
    assert Hyper(20, "…").refusal("k", 2.5) == "k is 2.5; expected a whole number"
    assert not Hyper(True, "…").integer


def test_every_case_of_the_tests_is_in_its_domains():
    for case in method_cases.CASES:
        method = METHODS[case.name]
        assert method.refusal(**{**method.defaults, **case.hyper}) is None, case


@pytest.mark.parametrize("case", method_cases.CASES, ids=str)
def test_the_mix_is_known_without_logits(case: method_cases.Case):
    method = METHODS[case.name]
    tile = {key: value[:8] for key, value in method_cases.tile().items()}
    arrays = method_cases.inputs(case, tile, "float32")
    q = target(case.name, tile["logits"], tile["labels"], **arrays, **case.hyper)
    columns = {key: x for key, x in arrays.items() if key not in SECOND_MODELS}
    hyper = {**method.defaults, **case.hyper}
    assert method.mix_of(columns, **hyper) == q.mix


def test_the_mix_of_a_hyper_parameter_per_token():
    columns = {"gamma": jnp.linspace(0, 1, 5)}
    assert METHODS["target_sft"].mix_of(columns, eta=0.25) == (0.75, 0.25)
    # A guidance that differs by token has no mix of numbers.
    columns = {"eta": jnp.linspace(0, 1, 5)}
    assert METHODS["target_sft"].mix_of(columns, gamma=None) is None


def _half(rows, *, teacher_share, boost):
    """Half of the target for the label."""
    share = teacher_share * boost
    return QTarget(1 - share, share, (0, 1))


HALF = Method(
    _half,
    label="1 − λ",
    alternative="λ",
    needs=("teacher_logits", "boost"),
    hyper={"teacher_share": Hyper(0.5, "Share of the teacher.", between(0, 1))},
)


def test_a_method_object_is_accepted_in_place_of_a_name():
    """KD-H with its weight as a product, and an input outside the table."""
    tile = {key: value[:8] for key, value in method_cases.tile().items()}
    logits, labels = tile["logits"].astype("f4"), tile["labels"]
    teacher = {"teacher_logits": tile["teacher_logits"].astype("f4")}
    boost = np.full(8, 0.6, "f4")
    for share in (0.5, 1.0):
        both = {"teacher_share": share, "boost": boost, **teacher}
        q = target(HALF, logits, labels, **both)
        twin = target("kd_h", logits, labels, **teacher, kd_weight=share * 0.6)
        np.testing.assert_allclose(q.induced(), twin.induced(), atol=1e-6)
    value = objective(HALF, logits, labels, boost=boost, **teacher)
    np.testing.assert_allclose(
        value,
        target(HALF, logits, labels, boost=boost, **teacher).cross_entropy(),
        rtol=1e-6,
    )
    head = jnp.eye(7)
    arguments = {
        "weights": jnp.ones(8) / 8,
        "teacher": (jnp.asarray(teacher["teacher_logits"]), head),
        "boost": boost,
    }
    loss, metrics = fused_loss(HALF, jnp.asarray(logits), head, labels, **arguments)
    np.testing.assert_allclose(loss, np.mean(value), rtol=1e-5)
    np.testing.assert_allclose(metrics["gamma"], 0.7, rtol=1e-5)
    wide = reference_loss(HALF, jnp.asarray(logits), head, labels, **arguments)
    np.testing.assert_allclose(loss, wide, rtol=1e-5)


def test_a_method_object_is_refused_by_its_name():
    logits, labels = np.zeros((2, 3)), np.zeros(2, int)
    with pytest.raises(ValueError, match="'_half' needs teacher_logits, boost"):
        target(HALF, logits, labels)
    with pytest.raises(ValueError, match="'_half' has no hyper-parameter share"):
        target(HALF, logits, labels, share=0.5)
