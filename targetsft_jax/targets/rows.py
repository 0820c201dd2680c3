"""Row statistics of logits: the inputs of every method, each computed once.

`Rows` wraps a tile of logits [..., V] with its labels and, where a method has one, the
logits of a second model. Every statistic is a lazy property, so under `jit` only those
that a method reads are computed. The same class serves a dense [..., V] array in a
notebook and one [C, V] tile inside the fused loss.

All reductions over the vocabulary are in this class, so that a subclass may hold a
shard of the columns (see `loss.tile`): methods read statistics, or call `total`.

Numerics of all methods:

* The sum of exponentials excludes the label, so that 1 − p_y is a quotient without
  cancellation: it is accurate down to the smallest float, and so is log p_y near 0.
* −inf logits (padded vocabularies) carry no mass: 0·(−inf) counts as 0.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

Mix = tuple[float | Array, float | Array]
"""(α, β) of α·logits + β·other: numbers, or arrays with one entry per token."""


def is_plain(mix: Mix) -> bool:
    """True for a mix of numbers, known when a function is traced."""
    return all(isinstance(factor, int | float) for factor in mix)


def compute_dtype(logits: Array) -> jnp.dtype:
    """Dtype of the row statistics: float64 for float64 logits, else float32."""
    return jnp.dtype(jnp.float64 if logits.dtype == jnp.float64 else jnp.float32)


def zero_safe_product(weight: Array, value: Array) -> Array:
    """weight · value with 0 · inf = 0, in the value and in both derivatives."""
    zero = weight == 0
    return jnp.where(zero, 0, weight * jnp.where(zero, 0, value))


@dataclass(frozen=True)
class Alternative:
    """The alternative distribution T over the vocabulary, constant in θ.

    Attributes:
        probabilities: T [..., V]; zero in rows without support.
        cross_entropy: −Σ T log p [...], differentiable in the student's logits.
        entropy: −Σ T log T [...].
        supported: [...] bool, False where T does not exist (no token has mass under
            it), as in a mix of two models without a common token.
    """

    probabilities: Array
    cross_entropy: Array
    entropy: Array
    supported: Array


class Rows:
    """Row statistics of a tile of logits.

    Args:
        logits: student logits [..., V], any float dtype.
        labels: observed tokens [...], int. All statistics of a row are NaN where its
            label is outside [0, V).
        other: logits of the second model (teacher or reference) [..., V], or None.
    """

    def __init__(self, logits: Array, labels: Array, other: Array | None = None):
        dtype = compute_dtype(logits)
        self.logits = logits.astype(dtype)
        self.labels = labels
        self.other = None if other is None else stop_gradient(other.astype(dtype))

    @cached_property
    def is_label(self) -> Array:
        """[..., V] bool, true at the label. A comparison: gathers are slow on TPUs."""
        vocabulary = jax.lax.broadcasted_iota(
            jnp.int32, self.logits.shape, self.logits.ndim - 1
        )
        with jax.numpy_dtype_promotion("standard"):  # Labels of any width.
            return vocabulary == self.labels[..., None]

    @cached_property
    def is_inside(self) -> Array:
        """[...] bool: the label is in the vocabulary."""
        return (self.labels >= 0) & (self.labels < self.logits.shape[-1])

    @cached_property
    def is_undefined(self) -> Array:
        """[...] bool: a label outside the vocabulary, or a logit that is NaN or inf."""
        return ~(self._maximum < jnp.inf)

    @cached_property
    def shifted(self) -> Array:
        """Logits minus their row maximum [..., V], so that the largest is 0."""
        return self.logits - self._maximum[..., None]

    @cached_property
    def label_shifted(self) -> Array:
        """The label's shifted logit [...]."""
        shifted = jnp.sum(jnp.where(self.is_label, self.shifted, 0), axis=-1)
        return jnp.where(self.is_inside, shifted, jnp.nan)

    @cached_property
    def log_total(self) -> Array:
        """log Σ exp(shifted) [...]: the log-normaliser relative to the maximum."""
        return jnp.log(self._others + self._label_mass)

    @cached_property
    def probabilities(self) -> Array:
        """p = softmax(logits) [..., V]."""
        return self._masses / (self._others + self._label_mass)[..., None]

    @cached_property
    def minus_label(self) -> Array:
        """p − δ_y [..., V]; the label's entry is −(1 − p_y), without cancellation."""
        return jnp.where(self.is_label, -self.complement[..., None], self.probabilities)

    @cached_property
    def prob(self) -> Array:
        """p_y [...]."""
        return self._label_mass / (self._others + self._label_mass)

    @cached_property
    def complement(self) -> Array:
        """1 − p_y [...], accurate to the last bit also where p_y rounds to 1."""
        return self._others / (self._others + self._label_mass)

    @cached_property
    def log_prob(self) -> Array:
        """log p_y [...], −inf where p_y is exactly 0."""
        likely = self._label_mass > self._others
        odds = jnp.where(likely, self._others / _or_one(likely, self._label_mass), 0)
        return jnp.where(likely, -jnp.log1p(odds), self.label_shifted - self.log_total)

    @cached_property
    def nll(self) -> Array:
        """−log p_y [...]."""
        return -self.log_prob

    @cached_property
    def entropy(self) -> Array:
        """−Σ p log p [...], in nats."""
        return self.log_total - self._mean_shifted

    @cached_property
    def concentration(self) -> Array:
        """Σ p² [...]: the probability that two draws from p are the same token."""
        return self.total(jnp.square(self.probabilities))

    @cached_property
    def log_probabilities(self) -> Array:
        """log p [..., V], −inf where p is exactly 0."""
        return self.shifted - self.log_total[..., None]

    @cached_property
    def other_log_probabilities(self) -> Array:
        """log-softmax of the second model's logits [..., V].

        Raises:
            ValueError: the rows have no second model.
        """
        if self.other is None:
            raise ValueError("this method needs the logits of a second model")
        maximum = self.highest(self.other)
        shifted = self.other - jnp.where(maximum == -jnp.inf, 0, maximum)[..., None]
        return shifted - jnp.log(self.total(jnp.exp(shifted)))[..., None]

    @cached_property
    def correct(self) -> Array:
        """[...] bool: no token is more probable than the label."""
        return self.label_shifted >= 0

    def constant(self, value: Any) -> Array:
        """One value for every token: [...] in the statistics' dtype."""
        return jnp.full(self.labels.shape, value, self.logits.dtype)

    def total(self, values: Array) -> Array:
        """Σ over the vocabulary of values [..., V]: [...]."""
        return jnp.sum(values, axis=-1)

    def highest(self, values: Array) -> Array:
        """Maximum over the vocabulary of values [..., V]: [...]."""
        return jnp.max(values, axis=-1)

    def top(self, k: int) -> Array:
        """The k largest shifted logits [..., k]; all of them if there are fewer."""
        return jax.lax.top_k(self.shifted, min(k, self.shifted.shape[-1]))[0]

    def top_entropy(self, k: int) -> Array:
        """Entropy [...] of the k most probable tokens, renormalised among themselves.

        Fewer than k tokens in the vocabulary: all of them.
        """
        top = self.top(k)
        masses = jnp.exp(top)
        total = jnp.sum(masses, axis=-1)
        mean = jnp.sum(zero_safe_product(masses, top), axis=-1) / total
        return jnp.log(total) - mean

    def top_share(self, k: int, norm: float | None = None) -> Array:
        """H̃ [...]: `top_entropy` over `norm` (default ln k), never below 0.

        Raises:
            ValueError: k < 2 without a `norm`: one token has no entropy.
        """
        if norm is None:
            if k < 2:
                raise ValueError(f"the entropy of the top {k} needs k ≥ 2, or its norm")
            norm = math.log(k)
        # Rounding can leave an entropy just below 0, where a fractional power is NaN.
        return jnp.maximum(self.top_entropy(k), 0) / norm

    def power(self, alpha: float) -> Array:
        """p_y^α [...], clamped to e^`largest_exponent(alpha)`: finite for every α."""
        if alpha == 0:
            return jnp.ones_like(self.prob)
        largest = self.largest_exponent(alpha)
        return jnp.exp(jnp.minimum(alpha * self.log_prob, largest))

    def power_of(self, exponent: Array) -> Array:
        """p_y^exponent [...] for an exponent above 0 per token [...]."""
        return jnp.exp(exponent * self.log_prob)

    def largest_exponent(self, alpha: float) -> float:
        """Largest x with finite e^x and e^x/α, with a margin for products."""
        largest = math.log(float(jnp.finfo(self.logits.dtype).max))
        return largest + min(0.0, math.log(abs(alpha))) - 8

    def alternative(self, mix: Mix) -> Alternative:
        """T = softmax(α·logits + β·other) for mix = (α, β).

        A factor of exactly 0 omits its model, so that a −inf logit of it does not
        become 0·(−inf) = NaN; (0, 0) is the uniform distribution. Factors may be
        arrays with one entry per token.

        Raises:
            ValueError: β is not 0 and the rows have no second model.
        """
        return self.softmax_of(self._mixed(mix, self.shifted))

    def softmax_of(self, scores: Array) -> Alternative:
        """T = softmax(scores) for any scores [..., V], constant in θ."""
        scores = stop_gradient(scores)
        maximum = jnp.max(scores, axis=-1)
        # NaN is not without support: it must reach the loss.
        supported = maximum != -jnp.inf
        scores = scores - jnp.where(supported, maximum, 0)[..., None]
        masses = jnp.exp(scores)
        total = _or_one(supported, jnp.sum(masses, axis=-1))
        probabilities = masses / total[..., None]
        return Alternative(
            probabilities=probabilities,
            cross_entropy=self.log_total
            - jnp.sum(zero_safe_product(probabilities, self.shifted), axis=-1),
            entropy=jnp.log(total)
            - jnp.sum(zero_safe_product(probabilities, scores), axis=-1),
            supported=supported,
        )

    def _mixed(self, mix: Mix, shifted: Array) -> Array:
        """α·shifted + β·other [..., V]; a factor of exactly 0 omits its model."""
        # Shifted logits: α·logits would be rounded at the magnitude of the logits.
        student, second = mix
        scores = jnp.zeros_like(shifted)
        if not _is_zero(student):
            scores = _scaled(student, shifted)
        if not _is_zero(second):
            if self.other is None:
                raise ValueError(f"mix {mix} needs the logits of a second model")
            scores = scores + _scaled(second, self.other)
        return scores

    @cached_property
    def _mean_shifted(self) -> Array:
        """Σ p · shifted [...]."""
        return jnp.sum(zero_safe_product(self.probabilities, self.shifted), axis=-1)

    @cached_property
    def _maximum(self) -> Array:
        maximum = stop_gradient(jnp.max(self.logits, axis=-1))
        maximum = jnp.where(maximum == -jnp.inf, 0, maximum)
        return jnp.where(self.is_inside, maximum, jnp.nan)

    @cached_property
    def _masses(self) -> Array:
        return jnp.exp(self.shifted)

    @cached_property
    def _label_mass(self) -> Array:
        return jnp.sum(jnp.where(self.is_label, self._masses, 0), axis=-1)

    @cached_property
    def _others(self) -> Array:
        return jnp.sum(jnp.where(self.is_label, 0, self._masses), axis=-1)


def _is_zero(factor: float | Array) -> bool:
    """True for a number that is 0; False for an array, known at run time only."""
    return isinstance(factor, int | float) and factor == 0


def _scaled(factor: float | Array, logits: Array) -> Array:
    """factor · logits [..., V], 0 where an array's factor is 0 for its token."""
    if isinstance(factor, int | float):
        return factor * logits
    weight = jnp.asarray(factor, logits.dtype)[..., None]
    return zero_safe_product(jnp.broadcast_to(weight, logits.shape), logits)


def _or_one(condition: Array, value: Array) -> Array:
    """value where condition holds, else 1: a denominator that is never 0."""
    return jnp.where(condition, value, 1)
