"""The functional API: arrays in, targets and losses out.

    q = target("target_sft", logits, labels, teacher_logits=t, eta=0.5)
    q.gamma; q.residual(); q.logit_gradient(); q.induced()
    objective("target_sft", logits, labels, teacher_logits=t)
    induced_target(my_loss, logits)

A method is a name in `METHODS`, or a `Method`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.targets.inputs import INPUTS, SECOND_MODELS
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.methods import ALIASES, METHODS
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows, compute_dtype


def target(
    method: str | Method, logits: Array, labels: Array, **inputs: Any
) -> QTarget:
    """Target distribution of a method at each token, in normal form.

    Args:
        method: a name in `METHODS` (or the alias `p_loss`), or a `Method`.
        logits: student logits [..., V], any float dtype; the statistics are float32,
            or float64 for float64 logits.
        labels: observed tokens [...], int in [0, V).
        **inputs: the method's inputs (`teacher_logits` [..., V], `old_logprob` [...],
            …) and hyper-parameters. Inputs that another method would need are allowed.

    Returns:
        A `QTarget`, detached from θ.

    Raises:
        ValueError: an unknown method or hyper-parameter, a missing input, shapes that
            do not fit, or (outside of jit) a label outside the vocabulary.
    """
    method, arrays, hyper = resolve(method, inputs)
    rows = _rows(method, logits, labels, arrays)
    return method.build(rows, **_columns(method, rows, arrays), **hyper).bind(rows)


def objective(
    method: str | Method, logits: Array, labels: Array, **inputs: Any
) -> Array:
    """A method's published per-token loss [...], differentiable in logits.

    Its gradient equals `target(...).logit_gradient()`. Arguments as for `target`.
    """
    method, arrays, hyper = resolve(method, inputs)
    rows = _rows(method, logits, labels, arrays)
    return method.objective(rows, **_columns(method, rows, arrays), **hyper)


def induced_target(loss_fn: Callable[[Array], Array], logits: Array) -> Array:
    """The target Q = p − ∂Σloss/∂logits [..., V] of any differentiable token loss.

    Args:
        loss_fn: logits [..., V] -> per-token loss [...] (or its sum).
        logits: [..., V].
    """
    logits = jnp.asarray(logits).astype(compute_dtype(jnp.asarray(logits)))
    gradient = jax.grad(lambda z: jnp.sum(loss_fn(z)))(logits)
    return jax.nn.softmax(logits, axis=-1) - gradient


def resolve(
    method: str | Method, inputs: Mapping[str, Any]
) -> tuple[Method, dict[str, Array], dict[str, Any]]:
    """A method, the arrays that it needs, and its complete hyper-parameters.

    Raises:
        ValueError: naming the method and what is unknown or missing.
    """
    method = get_method(method)
    hyper = hyper_parameters(
        method, {key: value for key, value in inputs.items() if key in method.hyper}
    )
    needs = method.inputs(**hyper)
    # A name that is not an input of any method is a misspelt hyper-parameter: raises.
    known = (*INPUTS, *needs, *method.hyper)
    hyper_parameters(method, {key: None for key in inputs if key not in known})
    missing = [key for key in needs if inputs.get(key) is None]
    if missing:
        raise ValueError(f"method {method.name!r} needs {', '.join(missing)}")
    return method, {key: inputs[key] for key in needs}, hyper


def get_method(method: str | Method) -> Method:
    """Look up a method by name or alias; a `Method` is returned unchanged.

    Raises:
        ValueError: an unknown name; the message lists the names.
    """
    if isinstance(method, Method):
        return method
    entry = METHODS.get(ALIASES.get(method, method))
    if entry is None:
        raise ValueError(f"no method {method!r}; expected one of {', '.join(METHODS)}")
    return entry


def hyper_parameters(method: str | Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's complete hyper-parameters: `values` over its defaults.

    Raises:
        ValueError: a name that the method does not have.
    """
    method = get_method(method)
    unknown = [key for key in values if key not in method.hyper]
    if unknown:
        raise ValueError(
            f"method {method.name!r} has no hyper-parameter {', '.join(unknown)}; "
            f"it has {', '.join(method.hyper) or 'none'}"
        )
    return {**method.defaults, **values}


def second_model(arrays: Mapping[str, Array]) -> str | None:
    """Name of the input in `arrays` that is a second model's logits, or None."""
    return next((key for key in SECOND_MODELS if key in arrays), None)


def _columns(
    method: Method, rows: Rows, arrays: Mapping[str, Array]
) -> dict[str, Array]:
    columns = {
        key: jnp.asarray(value)
        for key, value in arrays.items()
        if key not in SECOND_MODELS
    }
    for key, column in columns.items():
        # Broadcasting would give a token the weight of another row where B = L.
        if column.shape != rows.labels.shape:
            raise ValueError(
                f"method {method.name!r}: {key} {column.shape} differs from labels "
                f"{rows.labels.shape}: expected one entry for each token"
            )
    return columns


def _rows(
    method: Method, logits: Array, labels: Array, arrays: Mapping[str, Array]
) -> Rows:
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels {labels.shape} do not fit logits {logits.shape}: "
            "expected one label for each row of logits"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}; expected integers")
    _check_labels(labels, logits.shape[-1])
    key = second_model(arrays)
    other = None if key is None else jnp.asarray(arrays[key])
    if other is not None and other.shape != logits.shape:
        raise ValueError(
            f"method {method.name!r}: {key} {other.shape} differs from logits "
            f"{logits.shape}; slice both to the shared vocabulary"
        )
    return Rows(logits, labels, other)


def _check_labels(labels: Array, vocabulary: int) -> None:
    """Raise ValueError for labels outside the vocabulary; traced labels are skipped."""
    if isinstance(labels, jax.core.Tracer):
        return
    values = np.asarray(labels)
    outside = (values < 0) | (values >= vocabulary)
    if outside.any():
        index = tuple(np.argwhere(outside)[0].tolist())
        raise ValueError(
            f"label {values[outside][0]} at index {index} is outside the vocabulary "
            f"[0, {vocabulary}); use any valid label and weight 0 at positions without "
            "a target"
        )
