"""Functional API: accepted arguments, and the messages of its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import METHODS, induced_target, objective, target
from targetsft_jax.targets import QTarget
from targetsft_jax.targets.api import resolve

LOGITS = np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)
LABELS = np.array([[0, 1, 2], [3, 0, 1]])
NEEDY = [name for name, m in METHODS.items() if m.inputs(**m.defaults)]
both = pytest.mark.parametrize("function", [target, objective])


@both
def test_unknown_method_lists_the_known(function):
    with pytest.raises(ValueError, match="no method 'stf'.*sft.*target_sft"):
        function("stf", LOGITS, LABELS)


@both
@pytest.mark.parametrize("name", METHODS)
def test_unknown_hyper_parameter_names_the_method(function, name: str):
    with pytest.raises(ValueError, match=f"{name}.*no hyper-parameter temprature"):
        function(name, LOGITS, LABELS, temprature=2.0)


@both
@pytest.mark.parametrize("name", NEEDY)
def test_missing_input_names_method_and_input(function, name: str):
    (needed,) = METHODS[name].inputs(**METHODS[name].defaults)
    for absent in ({}, {needed: None}):
        with pytest.raises(ValueError, match=f"{name}.*needs {needed}"):
            function(name, LOGITS, LABELS, **absent)


@both
@pytest.mark.parametrize("wrong", [-1, 4, -100])
def test_label_outside_the_vocabulary_is_named_with_its_index(function, wrong: int):
    labels = LABELS.copy()
    labels[1, 2] = wrong
    with pytest.raises(ValueError, match=rf"label {wrong} at index \(1, 2\).*\[0, 4\)"):
        function("sft", LOGITS, labels)


def test_label_outside_under_jit_is_nan_in_its_row_alone():
    labels = np.where(LABELS == 3, -100, LABELS)
    g = jax.jit(lambda y: target("dft", LOGITS, y).logit_gradient())(labels)
    np.testing.assert_array_equal(np.isnan(g).all(-1), LABELS == 3)
    assert np.isfinite(np.asarray(g)[LABELS != 3]).all()


@both
def test_shapes_and_dtypes_that_do_not_fit(function):
    fit = r"labels \(3,\) do not fit logits \(2, 3, 4\)"
    with pytest.raises(ValueError, match=fit):
        function("sft", LOGITS, LABELS[0])
    with pytest.raises(ValueError, match="float32; expected integers"):
        function("sft", LOGITS, LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="bool; expected integers"):
        function("sft", LOGITS, LABELS > 1)
    with pytest.raises(ValueError, match=r"'kd': teacher_logits \(2, 3, 5\) differs"):
        function("kd", LOGITS, LABELS, teacher_logits=np.zeros((2, 3, 5)))
    # Broadcasting [L] over [B, L] would apply the weights of another row.
    for shape in ((3,), (2, 1), (1, 3), ()):
        with pytest.raises(ValueError, match="'iw_sft': trajectory_weight"):
            function("iw_sft", LOGITS, LABELS, trajectory_weight=np.ones(shape))


@both
def test_hyper_parameters_outside_their_domain(function):
    teacher = {"teacher_logits": LOGITS}
    for pattern, name, arguments in (
        ("'gem': variant is 'cubic'", "gem", {"variant": "cubic"}),
        ("top_k is 1; expected 2 to 1000000 tokens", "eaft", {"top_k": 1}),
        (r"entropy \(2 to 1000000", "custom", {"gamma": {"entropy": 1}}),
        ("gamma is 'prob'.*probability", "custom", {"gamma": "prob"}),
        ("residual is {}.*expected one of", "custom", {"residual": {}}),
        (
            "residual is .*expected one of",
            "custom",
            {"residual": {"guided": 0.5, "uniform": 1.0}, **teacher},
        ),
        ("needs teacher_logits", "custom", {"residual": {"guided": 0.5}}),
        ("needs reference_logits", "custom", {"residual": "reference"}),
    ):
        with pytest.raises(ValueError, match=pattern):
            function(name, LOGITS, LABELS, **arguments)


def test_a_target_without_alternative_or_rows_raises():
    with pytest.raises(ValueError, match="label pull only"):
        _ = target("sft", LOGITS, LABELS).alternative
    with pytest.raises(ValueError, match="not bound"):
        QTarget(jnp.ones(3)).logit_gradient()


def test_inputs_of_other_methods_are_allowed_and_not_read():
    other = np.full((2, 3, 9), np.nan)
    q = target("sft", LOGITS, LABELS, teacher_logits=other, old_logprob=None)
    assert np.isfinite(q.logit_gradient()).all()


def test_aliases_and_defaults():
    assert resolve("p_loss", {})[0] is METHODS["dft"]
    assert resolve("alpha", {"alpha": 2})[2] == {"alpha": 2}
    assert resolve("gem", {})[2] == {"beta": 0.7, "variant": "linear"}
    with pytest.raises(TypeError):
        METHODS["alpha"].defaults["alpha"] = 3  # shared, so read-only


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_statistics_are_float32(dtype: str):
    logits = jnp.asarray(LOGITS, dtype)
    q = target("kd_h", logits, LABELS, teacher_logits=logits)
    for value in (q.gamma, q.induced(), q.residual(), q.negative_mass()):
        assert value.dtype == jnp.float32
    assert objective("sft", logits, LABELS).dtype == jnp.float32


def test_float64_stays_float64():
    with jax.enable_x64(True):
        q = target("dft", LOGITS.astype(np.float64), LABELS)
        assert q.induced().dtype == jnp.float64
    # Float64 is off again outside the context.
    assert jnp.asarray(np.zeros(2)).dtype == jnp.float32


def test_integer_labels_of_any_width():
    expected = target("dft", LOGITS, LABELS).logit_gradient()
    for dtype in ("int8", "uint8", "int16", "uint32", "int64"):
        g = target("dft", LOGITS, LABELS.astype(dtype)).logit_gradient()
        np.testing.assert_array_equal(g, expected)


def test_induced_target_of_any_loss():
    """Focal loss, which is not a method: Q from its derivative by hand."""

    def focal(logits):
        log_p = jax.nn.log_softmax(logits)
        log_p = jnp.take_along_axis(log_p, LABELS[..., None], -1)[..., 0]
        return -((1 - jnp.exp(log_p)) ** 2) * log_p

    q = induced_target(focal, LOGITS)
    p = np.asarray(jax.nn.softmax(LOGITS))
    hit = np.arange(4) == LABELS[..., None]
    p_y = p[hit].reshape(LABELS.shape)[..., None]
    # −f'(p)·p with f = −(1 − p)² log p.
    weight = (1 - p_y) ** 2 - 2 * (1 - p_y) * p_y * np.log(p_y)
    np.testing.assert_allclose(q, (1 - weight) * p + weight * hit, atol=1e-6)
    np.testing.assert_array_equal(induced_target(lambda z: focal(z).sum(), LOGITS), q)

    def focal_of_labels(logits, labels, power):
        log_p = jax.nn.log_softmax(logits)
        log_p = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
        return -((1 - jnp.exp(log_p)) ** power) * log_p

    for labels in (LABELS, np.asarray(LABELS).astype("int64")):
        same = induced_target(focal_of_labels, LOGITS, labels, power=2)
        np.testing.assert_allclose(same, q, atol=1e-6)
    with pytest.raises(ValueError, match="label -100 at index"):
        induced_target(focal_of_labels, LOGITS, np.full_like(LABELS, -100), power=2)
    with pytest.raises(ValueError, match="do not fit logits"):
        induced_target(focal_of_labels, LOGITS, LABELS[:1], power=2)
    narrow = induced_target(focal, jnp.asarray(LOGITS, jnp.bfloat16))
    assert narrow.dtype == jnp.float32
