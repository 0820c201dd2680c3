"""Methods: a function from row statistics to a target, with its declarations.

A method reads row statistics and returns a `QTarget`: two weights per token and the mix
of logits that gives its alternative. Gradient, target, metrics, fused loss, tests,
configuration keys and the README's table follow from that function and its entry.

The published *value* is a·(−log p_y) + b·(−Σ T log p), unless the entry has a `value`.
Values serve comparison with other frameworks; gradients are not derived from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.keys import Domain
from targetsft_jax.targets.arguments import in_domain
from targetsft_jax.targets.inputs import SECOND_MODELS
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Mix, Rows, is_plain

Build = Callable[..., QTarget]
Value = Callable[..., Array]

FINITE = Domain("a finite number", lambda _: True)


def is_share(value: Any) -> bool:
    """True for a number in [0, 1]; False for an array, unknown at trace time."""
    return isinstance(value, int | float) and 0 <= value <= 1


SMALLEST, LARGEST = 1e-30, 1e30
"""Magnitudes of hyper-parameters: float32 holds them, their inverses and products."""


def is_array(value: Any) -> bool:
    """True for an array per token or a traced number; False for a concrete number."""
    return isinstance(value, jax.core.Tracer) or getattr(value, "ndim", 0) > 0


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter of a method.

    Attributes:
        default: default value; None also makes null an accepted value.
        help: one sentence for `--help` and the model card.
        domain: accepted values; numbers must be 0 or of a magnitude from `SMALLEST` to
            `LARGEST` in addition.
        static: True if the value selects code or the mix of logits: it must be known
            when a function is traced, and equal for all tokens. Any other number may
            be traced, or an array with one entry per token.
        over_training: ends of the linear schedule that a run has by default; None: a
            run has the default value.
    """

    default: Any
    help: str
    domain: Domain = FINITE
    static: bool = False
    over_training: tuple[float, float] | None = None

    @property
    def numeric(self) -> bool:
        """True if the values are numbers, or null."""
        return self.default is None or isinstance(self.default, int | float)

    @property
    def integer(self) -> bool:
        """True if the values are integers."""
        return isinstance(self.default, int) and not isinstance(self.default, bool)

    @property
    def schedulable(self) -> bool:
        """True if the value may be traced, so that it may change from step to step."""
        return self.numeric and not self.integer and not self.static

    def refusal(self, name: str, value: Any) -> str | None:
        """Error message for a value outside the domain, or None for one inside.

        Traced numbers and arrays per token are accepted: their entries are checked
        with the tokens (see `targets.arguments`).
        """
        if is_array(value):
            if self.schedulable:
                return None
            return (
                f"{name} is an array or a traced number; expected one number, known "
                "when the function is traced"
            )
        value = _plain(value)
        if value is None and self.default is None:
            return None
        if self.numeric:
            if isinstance(value, bool) or not isinstance(value, int | float):
                example = (
                    "or null" if self.default is None else f"such as {self.default}"
                )
                return f"{name} is {value!r}; expected a number {example}"
            # Counts of tokens become array shapes, where 2.5 would fail much later.
            if self.integer and isinstance(value, float) and not value.is_integer():
                return f"{name} is {value!r}; expected a whole number"
        refusal = self.domain.refusal(name, value, nullable=self.default is None)
        if refusal or not self.numeric or value == 0:
            return refusal
        if SMALLEST <= abs(value) <= LARGEST:
            return None
        return (
            f"{name} is {value!r}; expected a magnitude from {SMALLEST:g} to "
            f"{LARGEST:g}, as float32 can hold, or 0"
        )

    def normal(self, value: Any) -> Any:
        """An accepted value as methods read it.

        Numbers are of Python's types, counts are int. A traced number is constant in
        θ, and NaN outside the domain.
        """
        if isinstance(value, jax.core.Tracer) and value.ndim == 0:
            return in_domain(stop_gradient(value), self.domain)
        value = value if is_array(value) else _plain(value)
        return int(value) if self.integer else value


def _plain(value: Any) -> Any:
    """Numbers of numpy and jax as Python's; any other value unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: target, inputs, hyper-parameters and published value.

    Attributes:
        build: (rows, **inputs, **hyper) -> QTarget; inputs are per-token arrays [...].
            Its name is the method's name, and its docstring has the method's title,
            equation and source (see `targets.describe`).
        label: a as text.
        alternative: b as text; "0" for a method without an alternative.
        mix: (α, β) as text.
        needs: names of the inputs beyond logits and labels, or a function of the
            hyper-parameters that returns them.
        hyper: its hyper-parameters.
        value: (target, **inputs, **hyper) -> the published per-token loss [...]; None
            for the weighted cross-entropy.
        proper: True if Q is a distribution for every input, so that negative mass need
            not be computed; or a predicate of the hyper-parameters.
    """

    build: Build
    label: str = "a"
    alternative: str = "0"
    mix: str = "–"
    needs: tuple[str, ...] | Callable[..., tuple[str, ...]] = ()
    hyper: Mapping[str, Hyper] = field(default_factory=lambda: MappingProxyType({}))
    value: Value | None = None
    proper: bool | Callable[..., bool] = False

    @property
    def name(self) -> str:
        """Name of `build`."""
        return getattr(self.build, "__name__", repr(self.build))

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Default of each hyper-parameter, read-only."""
        return MappingProxyType(
            {key: entry.default for key, entry in self.hyper.items()}
        )

    def refusal(self, **hyper: Any) -> str | None:
        """Error message for the first value outside its domain, or None."""
        messages = (entry.refusal(key, hyper[key]) for key, entry in self.hyper.items())
        return next((message for message in messages if message), None)

    def normal(self, **hyper: Any) -> dict[str, Any]:
        """Accepted hyper-parameters as `build` reads them."""
        return {key: entry.normal(hyper[key]) for key, entry in self.hyper.items()}

    def inputs(self, **hyper: Any) -> tuple[str, ...]:
        """Names of the inputs that this method needs under these hyper-parameters."""
        return self.needs(**hyper) if callable(self.needs) else self.needs

    def is_proper(self, **hyper: Any) -> bool:
        """True if no input makes Q signed under these hyper-parameters."""
        if not callable(self.proper):
            return self.proper
        return self.proper(**{key: hyper[key] for key in self.hyper})

    def mix_of(self, columns: Mapping[str, Array], **hyper: Any) -> Mix | None:
        """(α, β) of the alternative under these hyper-parameters; None without a mix.

        The mix does not depend on logits, so it is read from `build`, traced on one
        abstract row. None too for factors that differ by token, or are traced.

        Args:
            columns: per-token inputs and hyper-parameters [N, ...], of which only
                shapes and dtypes are read.
            **hyper: all other hyper-parameters.
        """
        mixes: list[Mix | None] = []

        def build(logits: Array, label: Array, row: dict[str, Array]) -> None:
            needs = self.inputs(**{key: {**row, **hyper}[key] for key in self.hyper})
            second = logits if set(SECOND_MODELS) & set(needs) else None
            rows = Rows(logits, label, second)
            mixes.append(self.build(rows, **row, **hyper).mix)

        one_row = {
            key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
            for key, x in columns.items()
        }
        logits = jax.ShapeDtypeStruct((1, 2), jnp.float32)
        jax.eval_shape(build, logits, jax.ShapeDtypeStruct((1,), jnp.int32), one_row)
        mix = mixes[0]
        return mix if mix is not None and is_plain(mix) else None

    def objective(self, rows: Rows, **arguments: Any) -> Array:
        """The published loss [...], differentiable in the logits of `rows`."""
        return self.published(self.build(rows, **arguments).bind(rows), **arguments)

    def published(self, target: QTarget, **arguments: Any) -> Array:
        """The published loss [...] of a bound target."""
        if self.value is None:
            return target.cross_entropy()
        return self.value(target, **arguments)
