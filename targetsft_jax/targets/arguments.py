"""Arguments of the functional API: checked in their own dtype, then narrowed.

A concrete argument (numpy, a list, an array outside of a trace, a constant under `jit`)
raises ValueError. A traced value cannot: outside its domain it becomes NaN, a label −1,
whose statistics, loss and gradient are NaN. So no wrapped label, overflowed weight or
clipped hyper-parameter has a finite result.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.keys import Domain

Counts = np.ndarray | np.bool_ | None
"""Tokens with a weight: bool [...] or a scalar for all; None if known at run time."""

EVERYWHERE = np.True_


def label_array(labels: Any, vocabulary: int, counts: Counts = EVERYWHERE) -> Array:
    """Labels [...] int32, −1 where they are outside of [0, vocabulary).

    Args:
        labels: [...], any integer dtype.
        vocabulary: V.
        counts: where a label outside is an error.

    Raises:
        ValueError: labels that are not integers, or one outside where it counts.
    """
    values = concrete(labels)
    source = labels if values is None else values
    if not jnp.issubdtype(source.dtype, jnp.integer):
        raise ValueError(f"labels are {source.dtype}; expected integers")
    if values is None:
        # An int8 cannot be compared with a vocabulary of 151,936.
        wide = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
        inside = (wide >= 0) & (wide < vocabulary)
        return jnp.where(inside, wide.astype(jnp.int32), -1)
    inside = (values >= 0) & (values < vocabulary)
    if counts is not None and (wrong := ~inside & counts).any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"label {values[index]} at index {index} is outside the vocabulary "
            f"[0, {vocabulary}); use any valid label and weight 0 at positions without "
            "a target"
        )
    return jnp.asarray(np.where(inside, values, 0).astype(np.int32) - ~inside)


def real_array(name: str, values: Any) -> Array:
    """Real numbers of any dtype as a floating array; a floating dtype is kept.

    Raises:
        ValueError: values that are not real numbers.
    """
    array = values if hasattr(values, "dtype") else np.asarray(values)
    _require_real(name, array)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array)
    return jnp.asarray(array.astype(np.float32))


def mask_array(name: str, mask: Any) -> Array:
    """A mask [...] of bool, or of 0 and 1 in any dtype, as bool.

    Raises:
        ValueError: other values than 0 and 1.
    """
    values = concrete(mask)
    source = mask if values is None else values
    _require_real(name, source)
    if values is not None:
        _refuse_first(name, values, (values == 0) | (values == 1), "0 or 1")
    return jnp.asarray(source != 0)


def weight_array(weights: Any) -> Array:
    """Weights [...] as a floating array; negative ones subtract their tokens.

    Raises:
        ValueError: weights that are not real, or not finite in float32.
    """
    values = concrete(weights)
    if values is not None:
        _require_real("weights", values)
        _refuse_first("weights", values, _finite(values), "a finite float32 number")
    return real_array("weights", weights)


def counted(weights: Any) -> Counts:
    """Tokens of nonzero weight; None for traced weights."""
    values = concrete(weights)
    return None if values is None else values != 0


def unwrapped(name: str, values: Any) -> Array:
    """An array, unless its integers would wrap in jax's narrower dtype.

    Raises:
        ValueError: an integer that the dtype cannot hold.
    """
    host = concrete(values)
    if host is not None and jnp.issubdtype(host.dtype, jnp.integer):
        limits = jnp.iinfo(jax.dtypes.canonicalize_dtype(host.dtype))
        fits = (host >= int(limits.min)) & (host <= int(limits.max))
        _refuse_first(name, host, fits, f"an integer that {limits.dtype} can hold")
    return jnp.asarray(values)


def column_array(
    name: str,
    values: Any,
    domain: Domain | None,
    tokens: tuple[int, ...],
    counts: Counts = EVERYWHERE,
) -> Array:
    """Per-token numbers [...], NaN where traced values are outside of their domain.

    Args:
        name: name in errors.
        values: numbers or bool, of the tokens' shape.
        domain: accepted numbers; None for all finite ones.
        tokens: expected shape. Broadcasting would give a token the weight of another
            row where B = L.
        counts: where a value outside the domain is an error.

    Raises:
        ValueError: another shape, or a value outside the domain where it counts.
    """
    host = concrete(values)
    source = values if host is None else host
    if source.shape != tokens:
        raise ValueError(
            f"{name} {source.shape} differs from labels {tokens}: expected one entry "
            "for each token"
        )
    _require_real(name, source)
    if host is None:
        return in_domain(values, domain)
    if counts is not None:
        accepted = _members(host, domain, np) | ~np.broadcast_to(counts, tokens)
        expected = "a finite number" if domain is None else domain.expected
        _refuse_first(name, host, accepted, expected)
    return jnp.asarray(host) if host.dtype == bool else real_array(name, values)


def in_domain(values: Array, domain: Domain | None) -> Array:
    """Traced numbers with NaN in place of those outside a domain; bool is unchanged."""
    if values.dtype == bool:
        return values
    floats = real_array("values", values)
    return jnp.where(_members(floats, domain, jnp), floats, jnp.nan)


def concrete(values: Any) -> np.ndarray | None:
    """Values in their own dtype; None for a traced array, or one of other processes."""
    if isinstance(values, jax.core.Tracer):
        return None
    if isinstance(values, Array) and not values.is_fully_addressable:
        return None
    return np.asarray(values)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer of at least `low` and at most `high`.

    Raises:
        ValueError: any other value, booleans and floats included.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        expected = f"{low} or more" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}; expected a whole number, {expected}")
    return int(value)


def _require_real(name: str, values: Any) -> None:
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} is {values.dtype}; expected real numbers")


def _members(values: Any, domain: Domain | None, module: Any) -> Any:
    """[...] bool: finite in float32, or infinite where the domain has infinities."""
    if domain is None:
        return _finite(values)
    known = ~module.isnan(values) if domain.infinite else _finite(values)
    return known & domain.accepts(values)


def _finite(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        with np.errstate(over="ignore"):
            return np.isfinite(values.astype(np.float32))
    return jnp.isfinite(values.astype(jnp.float32))


def _refuse_first(
    name: str, values: np.ndarray, accepted: np.ndarray, expected: str
) -> None:
    if not accepted.all():
        index = tuple(np.argwhere(~accepted)[0].tolist())
        raise ValueError(
            f"{name} is {values[index].item()!r} at index {index}; expected {expected}"
        )
