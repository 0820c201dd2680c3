"""The normal form: two pulls per token, one to the label and one to an alternative.

Every token loss on softmax outputs has a logit gradient that sums to zero over the
vocabulary, so it can be written

    g = a·(p − δ_y) + b·(p − T)

with a label weight a, an alternative weight b and one distribution T. The target that
the loss teaches is Q = p − g, and everything else here follows from those three.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.rows import Alternative, Mix, Rows, times


@dataclass(frozen=True)
class QTarget:
    """A target distribution per token, in normal form. Constant in θ.

    Attributes:
        label_weight: a [...], the pull to the observed token.
        alternative_weight: b [...], the pull to T; None for methods without one.
        mix: (α, β) of T = softmax(α·logits + β·other); None where there is no
            alternative, or where T is no such mix and `scores` gives it.
        scores: unnormalised log T [..., V] where mix cannot express it, else None.
        rows: the row statistics that the target was built from.
    """

    label_weight: Array
    alternative_weight: Array | None = None
    mix: Mix | None = None
    scores: Array | None = None
    rows: Rows | None = None

    def bind(self, rows: Rows) -> "QTarget":
        """The same target, detached from θ, knowing the rows it was built from.

        A row whose alternative does not exist (no token has mass under it) loses its
        second pull: what it would pull to is nowhere.
        """
        a = stop_gradient(jnp.broadcast_to(self.label_weight, rows.labels.shape))
        a = a.astype(rows.logits.dtype)
        bound = replace(self, label_weight=a, rows=rows)
        if self.alternative_weight is None:
            return bound
        b = stop_gradient(jnp.broadcast_to(self.alternative_weight, rows.labels.shape))
        b = jnp.where(bound.alternative.supported, b, 0).astype(rows.logits.dtype)
        return replace(bound, alternative_weight=b)

    @cached_property
    def alternative(self) -> Alternative:
        """T with its entropies; ValueError for a method without an alternative."""
        rows = self._rows
        if self.scores is not None:
            return rows.weigh(self.scores)
        if self.mix is None:
            raise ValueError("this target has a label pull only: no alternative")
        return rows.alternative(self.mix)

    @property
    def gamma(self) -> Array:
        """γ [...]: the share of the target that trusts the label. Equals a."""
        return self.label_weight

    @property
    def strength(self) -> Array:
        """A = a + b [...]: how hard the token pulls in all, g = A·(p − Q̂)."""
        if self.alternative_weight is None:
            return self.label_weight
        return self.label_weight + self.alternative_weight

    def logit_gradient(self) -> Array:
        """g = a·(p − δ_y) + b·(p − T) [..., V]; sums to zero over V."""
        rows = self._rows
        gradient = self.label_weight[..., None] * rows.minus_label
        if self.alternative_weight is not None:
            apart = rows.probabilities - self.alternative.probabilities
            gradient += self.alternative_weight[..., None] * apart
        return stop_gradient(gradient)

    def weighted(self, weights: Array) -> "QTarget":
        """The same pulls times a weight per token [...]; none at all where it is 0.

        Its gradient is the weighted one; its target and value are not the method's.
        """
        a = times(weights, self.label_weight)
        b = self.alternative_weight
        b = None if b is None else times(weights, b)
        return replace(self, label_weight=a, alternative_weight=b)

    def induced(self) -> Array:
        """Q = p − g = (1 − a − b)·p + a·δ_y + b·T [..., V]; sums to one.

        Signed for some methods and tokens: see `negative_mass`. It is never clipped,
        since that would be another method.
        """
        p = self._rows.probabilities
        return stop_gradient(self._remainder(p) + self._label(self.label_weight))

    def residual(self) -> Array:
        """π̃ [..., V] of Q = γ·δ_y + (1 − γ)·π̃.

        Where γ = 1 nothing is left to spread and no π̃ is determined: by convention
        the model's own p for a target with a label pull only, else T.
        """
        p = self._rows.probabilities
        if self.alternative_weight is None:
            return stop_gradient(p)
        # Without p in Q the rest is b, accurate however small; else it is 1 − γ.
        rest = jnp.where(self._own == 0, self.alternative_weight, 1 - self.gamma)
        none = jnp.abs(rest) <= jnp.where(self._own == 0, 0, 4 * _eps(rest))
        left = jnp.where(none, 0, rest)[..., None]
        spread = self._remainder(p) / jnp.where(left == 0, 1, left)
        tilted = self.alternative.probabilities
        return stop_gradient(jnp.where(left == 0, tilted, spread))

    def rescaled(self) -> Array:
        """Q̂ = (a·δ_y + b·T) / A [..., V], with g = A·(p − Q̂). NaN where A = 0."""
        pulled = self._label(self.label_weight)
        if self.alternative_weight is not None:
            b = self.alternative_weight[..., None]
            pulled += b * self.alternative.probabilities
        strength = self.strength[..., None]
        return stop_gradient(jnp.where(strength == 0, jnp.nan, pulled / strength))

    def negative_mass(self) -> Array:
        """Σ max(0, −Q) [...]: how far Q is from being a distribution."""
        return self._rows.total(jnp.maximum(0, -self.induced()))

    @property
    def proper(self) -> Array:
        """[...] bool: Q is a distribution, to rounding."""
        return self.negative_mass() <= 8 * _eps(self.label_weight)

    def cross_entropy(self) -> Array:
        """a·(−log p_y) + b·(−Σ T log p) [...], differentiable in the logits.

        Its derivative is the logit gradient, since a, b and T are constants.
        """
        value = times(self.label_weight, self._rows.nll)
        if self.alternative_weight is not None:
            value += times(self.alternative_weight, self.alternative.cross_entropy)
        return value

    @property
    def _rows(self) -> Rows:
        if self.rows is None:
            raise ValueError("this QTarget is not bound to logits: call .bind(rows)")
        return self.rows

    @cached_property
    def _own(self) -> Array:
        """1 − a − b [...]: the weight of p in Q; a difference of rounding size is 0."""
        own = 1 - self.strength
        return jnp.where(jnp.abs(own) <= 4 * _eps(own), 0, own)

    def _label(self, weight: Array) -> Array:
        return jnp.where(self._rows.hit, weight[..., None], 0)

    def _remainder(self, p: Array) -> Array:
        """(1 − a − b)·p + b·T [..., V]: Q without its pull to the label."""
        own = self._own[..., None] * p
        if self.alternative_weight is None:
            return own
        return own + self.alternative_weight[..., None] * self.alternative.probabilities


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)
