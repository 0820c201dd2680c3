"""Hostile numbers: refused with one sentence, or NaN where they are traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.mesh_layouts import layout_of
from support.quick import quicker

from targetsft_jax import METHODS, fused_loss, objective, target
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import PolicyConfig
from targetsft_jax.loss import reference_loss
from targetsft_jax.targets.methods.composed import GAMMAS, RESIDUALS

N, V = 8, 11
LOGITS = np.random.default_rng(0).normal(size=(N, V)).astype(np.float32)
HEAD = np.eye(V, dtype=np.float32)
LABELS = np.arange(N)
WEIGHTS = np.full(N, 1 / N, np.float32)
# Weights of 0 on the label: they must not hide an undefined token.
COLUMNS = {
    "trajectory_weight": np.zeros(N, np.float32),
    "critical_mask": np.zeros(N, bool),
    "old_logprob": np.full(N, -90, np.float32),
    "reference_prob": np.full(N, 0.5, np.float32),
    "label_gamma": np.full(N, 0.5, np.float32),
}
NUMBERS = (np.nan, np.inf, -np.inf, -30.0, 1e39, -1e-200, 10**400, True, "x", [1.0])
NUMPY = (np.float32(np.nan), np.float64(np.inf), np.array(-30.0), jnp.array(np.nan))
ABOVE_ONE = ("tau", "smoothing", "kd_weight", "eta", "target_sft.gamma")
HYPERS = [(name, key) for name, method in METHODS.items() for key in method.hyper]


def _composed(table):
    """Options of a table, each with every hostile number."""
    for name, option in table.items():
        if option.number is None:
            yield from ({name: 0.5}, {name: np.nan})
        else:
            yield from ({name: number} for number in (*NUMBERS, *NUMPY))
    yield from ("no such name", {}, {"constant": 1.0, "power": 1.0}, [["power", 1]])
    yield from (9.0, np.float32(np.nan), np.ones(N), {"power": {"power": 1.0}})


def _hostile(name, key):
    if name == "custom":
        yield from _composed(GAMMAS if key == "gamma" else RESIDUALS)
    elif key == "variant":
        yield from ("cubic", 1, np.nan)
    else:
        yield from (*NUMBERS, *NUMPY)
        if key in ABOVE_ONE or f"{name}.{key}" in ABOVE_ONE:
            yield from (1.0 + 1e-6, 7.0)


def _inputs(name, fused=False, **hyper):
    needs = METHODS[name].inputs(**{**METHODS[name].defaults, **hyper})
    columns = {key: COLUMNS[key] for key in needs if key in COLUMNS}
    models = [key for key in needs if key not in columns]
    if fused:
        other = (LOGITS[::-1].copy(), HEAD)
        return columns | {key.removesuffix("_logits"): other for key in models}
    return columns | dict.fromkeys(models, LOGITS[::-1].copy())


@pytest.mark.parametrize("name, key", HYPERS)
def test_a_hyper_parameter_outside_its_domain(name: str, key: str, count):
    """The same sentence eagerly, under jit, fused, and from the configuration."""
    inputs, fused = _inputs(name), _inputs(name, fused=True)
    calls = {
        "target": lambda x: target(name, LOGITS, LABELS, **inputs, **x),
        "objective": lambda x: objective(name, LOGITS, LABELS, **inputs, **x),
        "jit": lambda x: jax.jit(lambda z: objective(name, z, LABELS, **inputs, **x))(
            LOGITS
        ),
        "fused_loss": lambda x: fused_loss(
            name, LOGITS, HEAD, LABELS, weights=WEIGHTS, **fused, **x
        ),
        "configuration": lambda x: resolve({"name": name, **x}, PolicyConfig()),
    }
    for value in _hostile(name, key):
        refusal = METHODS[name].hyper[key].refusal(key, value)
        assert refusal is not None and refusal.startswith(f"{key} is "), value
        for caller, call in calls.items():
            with pytest.raises(ValueError) as error:
                call({key: value})
            assert str(error.value).endswith(refusal), (caller, value)
            count("numbers", "refused with one sentence")


TRACEABLE = [
    (name, key)
    for name, key in HYPERS
    if not METHODS[name].hyper[key].refusal(key, np.zeros(N))
]


@pytest.mark.parametrize("name, key", TRACEABLE)
def test_a_traced_hyper_parameter_outside_its_domain_is_nan(name, key, count):
    inputs = _inputs(name)

    @jax.jit
    def run(value):
        return objective(name, LOGITS, LABELS, **inputs, **{key: value}).sum()

    for value in (np.nan, np.inf, -0.5):
        assert np.isnan(run(value)), value
        count("numbers", "NaN where traced")
    assert np.isfinite(run(0.5))


def test_a_traced_hyper_parameter_that_selects_code_is_an_error(count):
    for name, key in set(HYPERS) - set(TRACEABLE):
        inputs = _inputs(name)
        with pytest.raises(ValueError, match=f"{key} is an array or a traced number"):
            jax.jit(lambda x: objective(name, LOGITS, LABELS, **inputs, **{key: x}))(1)  # noqa: B023
        count("numbers", "refused with one sentence")


# Each has a weight of 0, or a comparison, that would turn NaN into a finite number.
HIDING = [
    (name, {}) for name in METHODS if name not in ("custom", "kd_h", "label_smoothing")
]
HIDING += [
    ("kd_h", {"kd_weight": 1.0}),
    ("label_smoothing", {"smoothing": 1.0}),
    ("custom", {"gamma": 0.0, "residual": "uniform"}),
    ("custom", {"gamma": "threshold"}),
    ("gem", {"variant": "logsigmoid"}),
    ("eaft", {"power": 0.0}),
    ("alpha", {"alpha": 0.0}),
    ("target_sft", {"gamma": 0.0}),
]
each_hiding = pytest.mark.parametrize("name, hyper", HIDING, ids=str)


@pytest.mark.sweep(8)
@each_hiding
def test_an_undefined_token_has_no_finite_result(name, hyper, count):
    """A label outside the vocabulary, and NaN or infinite logits, in dense arrays."""
    inputs = _inputs(name, **hyper)

    @jax.jit
    def run(logits, labels, second):
        arrays = {k: second if k.endswith("_logits") else x for k, x in inputs.items()}

        def total(logits):
            return objective(name, logits, labels, **arrays, **hyper).sum()

        q = target(name, logits, labels, **arrays, **hyper)
        row = q.logit_gradient()[5], q.induced()[5]
        value, gradient = jax.value_and_grad(total)(logits)
        return value, gradient[5], *row

    for label in (V, -1, -100, 2**31 - 1):
        wrong = np.where(LABELS == 5, label, LABELS)
        for result in run(LOGITS, wrong, LOGITS):
            assert np.isnan(result).any(), label
        count("numbers", "NaN where traced")
    for number in (np.nan, np.inf):
        logits = LOGITS.copy()
        logits[5, 2] = number
        assert np.isnan(run(logits, LABELS, LOGITS)[0])
        count("numbers", "NaN where traced")
    if any(key.endswith("_logits") for key in inputs):
        second = np.where(np.arange(N)[:, None] == 5, np.nan, LOGITS)
        assert np.isnan(run(LOGITS, LABELS, second)[0])
    assert np.isfinite(run(LOGITS, LABELS, LOGITS)[0])


def _pulled(loss, labels):
    run = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=quicker())
    return run(LOGITS, HEAD, labels)


@pytest.mark.sweep(4)
@each_hiding
@pytest.mark.parametrize("layout", [None, "8 tensor", "fsdp groups"])
def test_a_traced_label_outside_the_vocabulary_in_the_fused_loss(
    name, hyper, layout, count
):
    """NaN also over shards of the vocabulary, and in its padding."""
    arguments = {**_inputs(name, fused=True, **hyper), **hyper, "weights": WEIGHTS}

    def loss(hidden, head, labels):
        sharding = None if layout is None else layout_of(layout)
        options = {"layout": sharding, "chunk_size": 3, "vocab_size": V - 2}
        return fused_loss(name, hidden, head, labels, **arguments, **options)[0]

    run = jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=quicker())
    for label in (V - 2, -100):
        value, gradients = run(LOGITS, HEAD, np.where(LABELS == 5, label, LABELS))
        assert np.isnan(value) and all(np.isnan(g).any() for g in gradients), label
        count("numbers", "NaN where traced")
    assert np.isfinite(run(LOGITS, HEAD, LABELS)[0])


def test_a_traced_label_outside_the_vocabulary_under_transformations(count):
    def fused(hidden, head, labels):
        return fused_loss("dft", hidden, head, labels, weights=WEIGHTS)[0]

    def oracle(hidden, head, labels):
        return reference_loss("dft", hidden, head, labels, weights=WEIGHTS)

    def scanned(hidden, head, labels):
        def add(total, labels):
            return total + fused(hidden, head, labels), None

        return jax.lax.scan(add, 0.0, labels[None])[0]

    def mapped(hidden, head, labels):
        rows = jnp.stack([labels, jnp.arange(N)])
        return jax.vmap(lambda y: fused(hidden, head, y))(rows)[0]

    def of_a_function(hidden, head, labels):
        loss = fused_loss(
            lambda z, y: jnp.sum(z**2, -1), hidden, head, labels, weights=WEIGHTS
        )
        return loss[0]

    wrong = np.where(LABELS == 5, V, LABELS)
    for loss in (oracle, scanned, mapped, jax.checkpoint(fused), of_a_function):
        value, gradients = _pulled(loss, wrong)
        assert np.isnan(value) and all(np.isnan(g).any() for g in gradients)
        assert np.isfinite(_pulled(loss, LABELS)[0])
        count("numbers", "NaN where traced")


def test_labels_and_weights_are_checked_by_every_function(count):
    """Eagerly and as constants under jit; a weight of 0 excuses any label."""
    wide = np.where(LABELS == 5, 2**32 + 1, LABELS)
    uses = {
        "dft": lambda h, y, w: fused_loss("dft", h, HEAD, y, weights=w)[0],
        "oracle": lambda h, y, w: reference_loss("dft", h, HEAD, y, weights=w),
        "function": lambda h, y, w: fused_loss(
            lambda z, y: z.sum(-1), h, HEAD, y, weights=w
        )[0],
    }
    off = np.where(LABELS == 5, 0, 1 / N)
    for use in uses.values():
        for labels, weights, pattern in (
            (wide, WEIGHTS, "label 4294967297 at"),
            (wide.tolist(), WEIGHTS, "label 4294967297 at"),
            (LABELS.astype(float), WEIGHTS, "float64; expected integers"),
            (LABELS > 3, WEIGHTS, "bool; expected integers"),
            (LABELS, np.where(LABELS == 5, 1e300, 1), "weights is 1e.300 at"),
            (LABELS, np.where(LABELS == 5, np.nan, 1), "weights is nan at"),
        ):
            for call in (use, lambda h, y, w, use=use: jax.jit(use_of(use, y, w))(h)):
                with pytest.raises(ValueError, match=pattern):
                    call(jnp.asarray(LOGITS), labels, weights)
                count("numbers", "refused with one sentence")
        assert use(LOGITS, wide, off) == use(LOGITS, LABELS, off)


def use_of(use, labels, weights):
    """A function of the hidden states alone."""
    return lambda hidden: use(hidden, labels, weights)


def test_a_negative_weight_subtracts_its_token():
    loss = fused_loss("dft", LOGITS, HEAD, LABELS, weights=WEIGHTS)[0]
    minus = fused_loss("dft", LOGITS, HEAD, LABELS, weights=-WEIGHTS)[0]
    assert minus == -loss
