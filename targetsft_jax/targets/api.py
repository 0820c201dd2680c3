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

from targetsft_jax.targets.arguments import (
    EVERYWHERE,
    Counts,
    column_array,
    label_array,
    real_array,
)
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
        labels: observed tokens [...], int in [0, V). All results of a token are NaN
            where a traced label is outside.
        **inputs: the method's inputs (`teacher_logits` [..., V], `old_logprob` [...],
            …) and hyper-parameters, all constant in θ. Inputs that another method would
            need are allowed.

    Returns:
        A `QTarget`, detached from θ.

    Raises:
        ValueError: an unknown method or hyper-parameter, a missing input, shapes that
            do not fit; or a label, input or hyper-parameter outside its domain, unless
            it is traced, where it makes the token's results NaN.

    Example:
        A token whose label has the probability 0.2:

        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
        >>> q = target("dft", logits, jnp.array([0]))
        >>> f"{q.gamma[0]:.2f}", [f"{mass:.2f}" for mass in q.induced()[0]]
        ('0.20', ['0.36', '0.24', '0.40'])
    """
    method, rows, arguments = _tile(method, logits, labels, inputs)
    return method.build(rows, **arguments).bind(rows)


def objective(
    method: str | Method, logits: Array, labels: Array, **inputs: Any
) -> Array:
    """A method's published per-token loss [...], differentiable in logits.

    Its gradient equals `target(...).logit_gradient()`. Arguments as for `target`.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
        >>> value = objective("sft", logits, jnp.array([0]))
        >>> f"{value[0]:.3f}"  # −log 0.2
        '1.609'
    """
    method, rows, arguments = _tile(method, logits, labels, inputs)
    return method.objective(rows, **arguments)


def induced_target(
    loss_fn: Callable[..., Array],
    logits: Array,
    labels: Array | None = None,
    **inputs: Any,
) -> Array:
    """The target Q = p − ∂Σloss/∂logits [..., V] of any differentiable token loss.

    Args:
        loss_fn: logits [..., V] -> per-token loss [...] (or its sum); with `labels`, a
            function (logits, labels, **inputs), as `fused_loss` takes it.
        logits: [..., V].
        labels: observed tokens [...], int in [0, V); None for a function of the logits.
        **inputs: more arguments of the function.

    Raises:
        ValueError: a label outside the vocabulary, or labels of another shape.

    Example:
        The target of the negative log-likelihood is the label:

        >>> import jax, jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
        >>> def nll(z):
        ...     return -jax.nn.log_softmax(z)[..., 0]
        >>> [f"{mass:.2f}" for mass in abs(induced_target(nll, logits)[0])]
        ['1.00', '0.00', '0.00']
    """
    logits = real_array("logits", logits)
    logits = logits.astype(compute_dtype(logits))
    arguments: tuple[Array, ...] = ()
    if labels is not None:
        _check_labels(logits, np.shape(labels))
        arguments = (label_array(labels, logits.shape[-1]),)
    gradient = jax.grad(lambda z: jnp.sum(loss_fn(z, *arguments, **inputs)))(logits)
    return jax.nn.softmax(logits, axis=-1) - gradient


def resolve(
    method: str | Method, inputs: Mapping[str, Any]
) -> tuple[Method, dict[str, Array], dict[str, Any]]:
    """A method, the arrays that it needs, and its complete hyper-parameters.

    Raises:
        ValueError: naming the method and what is unknown, missing, or outside of its
            domain.
    """
    method = get_method(method)
    hyper = checked_hyper_parameters(
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


def checked_hyper_parameters(
    method: str | Method, values: Mapping[str, Any]
) -> dict[str, Any]:
    """`hyper_parameters` in their domains, as the method reads them.

    Raises:
        ValueError: a name that the method does not have, or a value outside its domain.
    """
    method = get_method(method)
    hyper = hyper_parameters(method, values)
    refusal = method.refusal(**hyper)
    if refusal is not None:
        raise ValueError(f"method {method.name!r}: {refusal}")
    return method.normal(**hyper)


def token_columns(
    method: Method,
    arrays: Mapping[str, Any],
    tokens: tuple[int, ...],
    counts: Counts = EVERYWHERE,
) -> dict[str, Array]:
    """Per-token inputs and hyper-parameters [...], in their domains.

    Args:
        method: the method, for errors and the domains of its hyper-parameters.
        arrays: values by name.
        tokens: shape of the labels.
        counts: tokens whose values are checked.

    Raises:
        ValueError: another shape, or a value outside its domain.
    """
    domains = {key: entry.entries for key, entry in INPUTS.items()}
    domains |= {key: entry.domain for key, entry in method.hyper.items()}
    return {
        key: column_array(
            f"method {method.name!r}: {key}", value, domains.get(key), tokens, counts
        )
        for key, value in arrays.items()
    }


def second_model(arrays: Mapping[str, Array]) -> str | None:
    """Name of the input in `arrays` that is a second model's logits, or None."""
    return next((key for key in SECOND_MODELS if key in arrays), None)


def _tile(
    method: str | Method, logits: Array, labels: Array, inputs: Mapping[str, Any]
) -> tuple[Method, Rows, dict[str, Any]]:
    """The method, its row statistics, and the keyword arguments of its `build`."""
    method, arrays, hyper = resolve(method, inputs)
    logits = real_array("logits", logits)
    key = second_model(arrays)
    other = None if key is None else real_array(key, arrays.pop(key))
    shape = np.shape(labels)
    _check_labels(logits, shape)
    if other is not None and other.shape != logits.shape:
        raise ValueError(
            f"method {method.name!r}: {key} {other.shape} differs from logits "
            f"{logits.shape}; slice both to the shared vocabulary"
        )
    rows = Rows(logits, label_array(labels, logits.shape[-1]), other)
    # A hyper-parameter may be an array per token, such as target_sft's gamma.
    arrays |= {name: hyper.pop(name) for name in list(hyper) if np.ndim(hyper[name])}
    return method, rows, {**token_columns(method, arrays, shape), **hyper}


def _check_labels(logits: Array, shape: tuple[int, ...]) -> None:
    if logits.ndim == 0 or logits.shape[:-1] != shape:
        raise ValueError(
            f"labels {shape} do not fit logits {logits.shape}: expected one label for "
            "each row of logits"
        )
