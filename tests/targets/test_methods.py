"""Properties of every registered method, on ordinary and hard rows.

`method_cases.CASES` is derived from `METHODS`: a registered method is tested.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import method_cases

from targetsft_jax import METHODS, induced_target, objective, target
from targetsft_jax.targets import Hyper, Method
from targetsft_jax.targets.inputs import INPUTS, SECOND_MODELS

DTYPES = ("float64", "float32")
every_case = pytest.mark.parametrize("case", method_cases.CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_method = pytest.mark.parametrize("name", METHODS)
ROWS = ["golden"] * 8 + method_cases.HARD_NAMES


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax in long double."""
    wide = logits.astype(np.longdouble)
    masses = np.exp(wide - wide.max(-1, keepdims=True))
    return masses / masses.sum(-1, keepdims=True)


def _within(error: np.ndarray, allowed: np.ndarray, dtype: str) -> None:
    """Assert that each row's largest error is within its bound."""
    worst = error.max(-1) if error.ndim > 1 else error
    tiny = 4 * float(jnp.finfo(dtype).tiny)
    bad = ~(worst <= allowed + tiny)
    assert not bad.any(), [
        (ROWS[i], float(worst[i]), float(allowed[i])) for i in np.flatnonzero(bad)
    ]


def _p(dtype: str) -> np.ndarray:
    return _softmax(method_cases.tile()["logits"].astype(dtype))


@pytest.mark.sweep(16)
@every_dtype
@every_case
def test_gradient_is_finite_and_value_is_not_nan(case: method_cases.Case, dtype: str):
    r = method_cases.evaluate(case, dtype)
    for key in ("g", "autodiff", "q", "a", "strength", "negative_mass"):
        finite = np.isfinite(r[key]).reshape(len(ROWS), -1).all(-1)
        assert finite.all(), (key, [ROWS[i] for i in np.flatnonzero(~finite)])
    assert not np.isnan(r["value"]).any(), np.flatnonzero(np.isnan(r["value"]))
    assert not np.isnan(r["residual"]).any()


@every_dtype
@every_case
def test_value_is_infinite_only_where_mass_is_pulled_to_the_impossible(
    case: method_cases.Case, dtype: str
):
    """The loss is infinite only where the target has mass and the student has none."""
    r = method_cases.evaluate(case, dtype)
    impossible = ~np.isfinite(method_cases.tile()["logits"])
    has_pull = ((r["q"] - _p(dtype)) != 0) & impossible
    hit = np.arange(7) == method_cases.tile()["labels"][:, None]
    allowed = has_pull.any(-1) | (impossible & hit).any(-1)
    if case.name == "reverse_kl":
        teacher = method_cases.tile()["teacher_logits"]
        allowed |= ((_p(dtype) > 0) & ~np.isfinite(teacher)).any(-1)
    # alpha < 0 leaves the range of a float at log p = -1e4: 1/sqrt(p) is e^5000.
    allowed |= r["a"] > jnp.finfo(dtype).max ** 0.75
    assert (np.isfinite(r["value"]) | allowed).all()


@every_dtype
@every_case
def test_closed_form_is_the_derivative_of_the_value(
    case: method_cases.Case, dtype: str
):
    r = method_cases.evaluate(case, dtype)
    bound = method_cases.rounding(case, method_cases.tile(), dtype)
    _within(np.abs(r["g"] - r["autodiff"]), bound * method_cases.scale(r), dtype)


@every_dtype
@every_case
def test_gradient_sums_to_zero_and_target_to_one(case: method_cases.Case, dtype: str):
    r = method_cases.evaluate(case, dtype)
    # Sums in long double, so that only the entries' rounding counts.
    g, q = r["g"].astype(np.longdouble), r["q"].astype(np.longdouble)
    eps = 8 * float(jnp.finfo(dtype).eps)
    _within(np.abs(g.sum(-1)), eps * method_cases.scale(r), dtype)
    _within(np.abs(q.sum(-1) - 1), eps * (1 + method_cases.scale(r)), dtype)


@every_dtype
@every_case
def test_target_is_p_minus_gradient(case: method_cases.Case, dtype: str):
    r = method_cases.evaluate(case, dtype)
    bound = method_cases.rounding(case, method_cases.tile(), dtype) * (
        1 + method_cases.scale(r)
    )
    _within(np.abs(r["q"] - (_p(dtype) - r["g"])), bound, dtype)


@every_dtype
@every_case
def test_target_is_label_and_residual(case: method_cases.Case, dtype: str):
    """Q = γ δ_y + (1 − γ) π̃, where γ < 1."""
    r = method_cases.evaluate(case, dtype)
    gamma = r["a"].astype(np.longdouble)[:, None]
    hit = np.arange(7) == method_cases.tile()["labels"][:, None]
    expected = gamma * hit + (1 - gamma) * r["residual"]
    eps = float(jnp.finfo(dtype).eps)
    defined = np.abs(1 - r["a"]) > 4 * eps
    # SFT+KL at γ = 1 has no residual: then only its sum is checked.
    error = np.where(defined[:, None], np.abs(expected - r["q"]), 0)
    _within(error, 16 * eps * (1 + method_cases.scale(r)), dtype)
    # Signed or not, π̃ sums to 1, to the rounding of Q divided by 1 − γ; without an
    # existing T it is 0.
    total = r["residual"].astype(np.longdouble).sum(-1)
    remainder = np.where(defined, np.abs(1 - r["a"]), 1)
    error = np.where((r["residual"] == 0).all(-1), 0, np.abs(total - 1))
    _within(
        error, 16 * eps * (1 + method_cases.scale(r)) / np.minimum(remainder, 1), dtype
    )


@every_dtype
@every_case
def test_methods_declared_proper_have_no_negative_mass(
    case: method_cases.Case, dtype: str
):
    r = method_cases.evaluate(case, dtype)
    negative = np.maximum(0, -r["q"]).sum(-1)
    np.testing.assert_allclose(r["negative_mass"], negative, rtol=1e-6)
    method = METHODS[case.name]
    if method.is_proper(**{**method.defaults, **case.hyper}):
        assert (negative <= 8 * jnp.finfo(dtype).eps).all()


@pytest.mark.sweep(4)
@every_method
def test_jit_changes_rounding_only(name: str):
    case = method_cases.Case(name)
    eager = method_cases.evaluate(case, "float32")
    arrays = method_cases.inputs(case, method_cases.tile(), "float32")

    @jax.jit
    def run(logits, labels, arrays):
        def value(logits):
            return objective(name, logits, labels, **arrays)

        def outputs(logits):
            q = target(name, logits, labels, **arrays)
            return q.logit_gradient(), q.induced(), q.gamma, q.residual()

        values, pull = jax.vjp(value, logits)
        results, leak = jax.vjp(outputs, logits)
        (leaked,) = leak(jax.tree.map(jnp.ones_like, results))
        induced_q = induced_target(value, logits)
        return values, *pull(jnp.ones_like(values)), *results[:2], induced_q, leaked

    logits = jnp.asarray(method_cases.tile()["logits"], jnp.float32)
    values, autodiff, g, q, induced_q, leaked = run(
        logits, method_cases.tile()["labels"], arrays
    )
    bound = method_cases.rounding(case, method_cases.tile(), "float32")
    scale = method_cases.scale(eager)
    _within(np.abs(np.asarray(g) - eager["g"]), bound * scale, "float32")
    _within(np.abs(np.asarray(autodiff) - eager["g"]), bound * scale, "float32")
    _within(np.abs(np.asarray(q) - eager["q"]), bound * (1 + scale), "float32")
    # The induced target of the loss, as of any function, is the same.
    _within(np.abs(np.asarray(induced_q) - eager["q"]), bound * (1 + scale), "float32")
    finite = np.isfinite(eager["value"])
    np.testing.assert_array_equal(np.isfinite(values), finite)
    size = np.abs(eager["value"]) + scale * method_cases.largest(
        method_cases.tile()["logits"]
    )
    error = np.abs(np.where(finite, values - eager["value"], 0))
    _within(error, bound * np.where(finite, size, 0), "float32")
    # No gradient flows through a target to its logits.
    np.testing.assert_array_equal(leaked, 0)


@every_method
def test_no_gradient_reaches_the_inputs(name: str):
    """The teacher, the reference and the per-token inputs are constants."""
    tile = {key: value[:8] for key, value in method_cases.tile().items()}
    arrays = method_cases.inputs(method_cases.Case(name), tile, "float32")
    moving = {k: v for k, v in arrays.items() if v.dtype != bool}
    if not moving:
        pytest.skip("the method has no real-valued inputs")
    logits = jnp.asarray(tile["logits"], jnp.float32)

    def outputs(moving):
        q = target(name, logits, tile["labels"], **{**arrays, **moving})
        return q.induced(), q.logit_gradient(), q.residual(), q.gamma

    results, pull = jax.vjp(outputs, moving)
    (leaked,) = pull(jax.tree.map(jnp.ones_like, results))
    for key, value in leaked.items():
        np.testing.assert_array_equal(value, 0, err_msg=key)


@pytest.mark.sweep(4)
@every_method
def test_leading_shapes(name: str):
    """[N, V], [B, L, V] and [V] give the same rows."""
    tile = {key: value[:8] for key, value in method_cases.tile().items()}
    arrays = {"logits": jnp.asarray(tile["logits"], jnp.float32)}
    arrays |= {"labels": jnp.asarray(tile["labels"])}
    arrays |= method_cases.inputs(method_cases.Case(name), tile, "float32")

    def run(arrays):
        tensors = dict(arrays)
        tensors = (tensors.pop("logits"), tensors.pop("labels")), tensors
        q = target(name, *tensors[0], **tensors[1])
        value = objective(name, *tensors[0], **tensors[1])
        return q.logit_gradient(), q.induced(), q.negative_mass(), q.strength, value

    flat = run(arrays)
    folded = run({k: v.reshape(2, 4, *v.shape[1:]) for k, v in arrays.items()})
    single = run({k: v[5] for k, v in arrays.items()})
    for one, two, three in zip(flat, folded, single):
        assert two.shape == (2, 4, *one.shape[1:])
        assert three.shape == one.shape[1:]
        # Vectorised differently, an exponential may differ in its last bit.
        np.testing.assert_allclose(two.reshape(one.shape), one, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(three, one[5], rtol=1e-5, atol=1e-6)


@every_method
def test_registry_entry_is_consistent(name: str):
    """The texts of an entry agree with its function."""
    method = METHODS[name]
    needs = method.inputs(**method.defaults)
    signature = inspect.signature(method.build)
    keywords = [
        key for key, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY
    ]
    columns = [key for key in needs if key not in SECOND_MODELS]
    assert set(keywords) == set(columns) | set(method.defaults)
    assert set(needs) <= set(INPUTS), "an input unknown to the API"
    if name == "custom":
        return
    tile = {key: value[:8] for key, value in method_cases.tile().items()}
    arrays = method_cases.inputs(method_cases.Case(name), tile, "float32")
    q = target(name, tile["logits"].astype("float32"), tile["labels"], **arrays)
    assert (method.alternative == "0") == (q.alternative_weight is None)
    assert (method.mix == "–") == (q.mix is None)
    if q.mix is not None:
        hyper = {"α": 1.0, **method.defaults}
        words = {
            "η": hyper.get("eta"),
            "β": hyper.get("beta"),
            "−": "-",
        }
        text = method.mix[1 : method.mix.index(")")]
        for symbol, number in words.items():
            text = text.replace(symbol, str(number))
        mix = tuple(eval(part, {}) for part in text.split(","))  # "1-0.5", "1/0.7"
        assert mix == pytest.approx(q.mix)
        second = {"teacher": "teacher_logits", "reference": "reference_logits"}
        for word, key in second.items():
            assert (word in method.mix) == (key in needs)
    constants = {"1": 1.0, "−1": -1.0, "0": 0.0}
    for text, weight in (
        (method.label, q.label_weight),
        (method.alternative, q.alternative_weight),
    ):
        if text in constants and weight is not None:
            np.testing.assert_array_equal(weight, constants[text])


def test_every_variant_names_a_method():
    assert set(method_cases.VARIANTS) <= set(METHODS)


def test_a_new_method_is_tested_without_an_entry(monkeypatch):
    """`method_cases` generates inputs by name; defaults come from the registry."""
    new = Method(
        lambda rows, *, patience, factor: METHODS["sft"].build(rows),
        needs=("patience",),
        hyper={"factor": Hyper(2.0, "Not read.")},
    )
    monkeypatch.setattr(method_cases, "METHODS", {**METHODS, "new": new})
    arrays = method_cases.inputs(
        method_cases.Case("new"), method_cases.tile(), "float32"
    )
    assert set(arrays) == {"patience"}
    assert arrays["patience"].shape == method_cases.tile()["labels"].shape
