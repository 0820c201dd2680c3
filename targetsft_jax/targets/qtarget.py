"""Normal form of a target: a pull to the label and a pull to an alternative.

Every token loss on softmax outputs has a logit gradient that sums to zero over the
vocabulary, so it can be written

    g = a·(p − δ_y) + b·(p − T)

with a label weight a, an alternative weight b and one distribution T. The target that
the loss teaches is Q = p − g. Everything else here is derived from those three.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.arguments import concrete
from targetsft_jax.targets.rows import Alternative, Mix, Rows, zero_safe_product


@dataclass(frozen=True, repr=False)
class QTarget:
    """A target distribution per token, in normal form. Constant in θ.

    Attributes:
        label_weight: a [...], the pull to the observed token.
        alternative_weight: b [...], the pull to T; None for methods without one.
        mix: (α, β) of T = softmax(α·logits + β·other); None without an alternative, or
            where T is not such a mix and `scores` defines it.
        scores: unnormalised log T [..., V] where mix cannot express it, else None.
        rows: row statistics that the target was built from.

    Example:
        A mixture of label and teacher:

        >>> import jax.numpy as jnp
        >>> import targetsft_jax as tsft
        >>> logits = jnp.zeros((1, 4))
        >>> teacher = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
        >>> labels = jnp.array([3])
        >>> q = tsft.target("kd_h", logits, labels, teacher_logits=teacher)
        >>> [f"{mass:.2f}" for mass in q.residual()[0]]  # π̃, here the teacher
        ['0.10', '0.20', '0.30', '0.40']
        >>> f"{q.strength[0]:.2f}", f"{q.negative_mass()[0]:.2f}"
        ('1.00', '0.00')
    """

    label_weight: Array
    alternative_weight: Array | None = None
    mix: Mix | None = None
    scores: Array | None = None
    rows: Rows | None = None

    def __repr__(self) -> str:
        """Shapes, and means with ranges of the weights; no arrays."""
        parts = [f"γ {_summary(self.label_weight)}"]
        if self.alternative_weight is not None:
            parts.append(f"b {_summary(self.alternative_weight)}")
            parts.append(_alternative_name(self.mix))
        if self.rows is not None:
            tokens = "×".join(map(str, self.rows.labels.shape)) or "1"
            parts.insert(0, f"{tokens} tokens, V = {self.rows.logits.shape[-1]:,}")
        return f"QTarget({'; '.join(parts)})"

    def bind(self, rows: Rows) -> "QTarget":
        """Attach row statistics and detach the target from θ.

        b becomes 0 in rows whose alternative does not exist (no token has mass under
        it). a becomes NaN in undefined rows, which a weight of 0 would hide.
        """
        a = stop_gradient(jnp.broadcast_to(self.label_weight, rows.labels.shape))
        a = jnp.where(rows.is_undefined, jnp.nan, a.astype(rows.logits.dtype))
        bound = replace(self, label_weight=a, rows=rows)
        if self.alternative_weight is None:
            return bound
        b = stop_gradient(jnp.broadcast_to(self.alternative_weight, rows.labels.shape))
        b = jnp.where(bound.alternative.supported, b, 0).astype(rows.logits.dtype)
        return replace(bound, alternative_weight=b)

    @cached_property
    def alternative(self) -> Alternative:
        """T with its entropies; raises ValueError without an alternative."""
        rows = self._rows
        if self.scores is not None:
            return rows.softmax_of(self.scores)
        if self.mix is None:
            raise ValueError("this target has a label pull only: no alternative")
        return rows.alternative(self.mix)

    @property
    def gamma(self) -> Array:
        """γ [...], the label's weight in the target. Equals a."""
        return self.label_weight

    @property
    def strength(self) -> Array:
        """A = a + b [...], the total pull of a token in g = A·(p − Q̂)."""
        if self.alternative_weight is None:
            return self.label_weight
        return self.label_weight + self.alternative_weight

    def logit_gradient(self) -> Array:
        """g = a·(p − δ_y) + b·(p − T) [..., V]; sums to zero over V."""
        rows = self._rows
        gradient = self.label_weight[..., None] * rows.minus_label
        if self.alternative_weight is not None:
            difference = rows.probabilities - self.alternative.probabilities
            gradient += self.alternative_weight[..., None] * difference
        return stop_gradient(gradient)

    def weighted(self, weights: Array) -> "QTarget":
        """Pulls scaled by a weight per token [...]; exactly 0 where the weight is 0.

        Only the gradient of the result is meaningful, not its target or value.
        """
        a = zero_safe_product(weights, self.label_weight)
        b = self.alternative_weight
        b = None if b is None else zero_safe_product(weights, b)
        return replace(self, label_weight=a, alternative_weight=b)

    def induced(self) -> Array:
        """Q = p − g = (1 − a − b)·p + a·δ_y + b·T [..., V]; sums to one.

        Signed for some methods and tokens: see `negative_mass`. It is not clipped,
        which would change the method.
        """
        p = self._rows.probabilities
        return stop_gradient(self._remainder(p) + self._label(self.label_weight))

    def residual(self) -> Array:
        """π̃ [..., V] of Q = γ·δ_y + (1 − γ)·π̃.

        For γ = 1, π̃ is undetermined; by convention it is p for a target with a label
        pull only, else T.
        """
        p = self._rows.probabilities
        if self.alternative_weight is None:
            return stop_gradient(p)
        # Where p has no weight in Q, use b: unlike 1 − γ it has no cancellation.
        no_p = self._model_weight == 0
        weight = jnp.where(no_p, self.alternative_weight, 1 - self.gamma)
        is_zero = jnp.abs(weight) <= jnp.where(no_p, 0, 4 * _eps(weight))
        weight = jnp.where(is_zero, 0, weight)[..., None]
        quotient = self._remainder(p) / jnp.where(weight == 0, 1, weight)
        return stop_gradient(
            jnp.where(weight == 0, self.alternative.probabilities, quotient)
        )

    def rescaled(self) -> Array:
        """Q̂ = (a·δ_y + b·T) / A [..., V], with g = A·(p − Q̂). NaN where A = 0."""
        masses = self._label(self.label_weight)
        if self.alternative_weight is not None:
            b = self.alternative_weight[..., None]
            masses += b * self.alternative.probabilities
        strength = self.strength[..., None]
        return stop_gradient(jnp.where(strength == 0, jnp.nan, masses / strength))

    def negative_mass(self) -> Array:
        """Σ max(0, −Q) [...]: 0 where Q is a distribution."""
        return self._rows.total(jnp.maximum(0, -self.induced()))

    @property
    def proper(self) -> Array:
        """[...] bool: Q is a distribution, to rounding."""
        return self.negative_mass() <= 8 * _eps(self.label_weight)

    def cross_entropy(self) -> Array:
        """a·(−log p_y) + b·(−Σ T log p) [...], differentiable in the logits.

        Its derivative is the logit gradient, since a, b and T are constants.
        """
        value = zero_safe_product(self.label_weight, self._rows.nll)
        if self.alternative_weight is not None:
            value += zero_safe_product(
                self.alternative_weight, self.alternative.cross_entropy
            )
        return value

    def divergence(self) -> Array:
        """a·(−log p_y) + b·KL(T ‖ p) [...], differentiable in the logits.

        The cross-entropy minus b times T's entropy, which is constant in θ.
        """
        if self.alternative_weight is None:
            return self.cross_entropy()
        entropy = zero_safe_product(self.alternative_weight, self.alternative.entropy)
        return self.cross_entropy() - stop_gradient(entropy)

    @property
    def _rows(self) -> Rows:
        if self.rows is None:
            raise ValueError("this QTarget is not bound to logits: call .bind(rows)")
        return self.rows

    @cached_property
    def _model_weight(self) -> Array:
        """1 − a − b [...]: the weight of p in Q; a difference of rounding size is 0."""
        weight = 1 - self.strength
        return jnp.where(jnp.abs(weight) <= 4 * _eps(weight), 0, weight)

    def _label(self, weight: Array) -> Array:
        return jnp.where(self._rows.is_label, weight[..., None], 0)

    def _remainder(self, p: Array) -> Array:
        """(1 − a − b)·p + b·T [..., V]: Q without its pull to the label."""
        remainder = self._model_weight[..., None] * p
        if self.alternative_weight is not None:
            b = self.alternative_weight[..., None]
            remainder += b * self.alternative.probabilities
        return remainder


def _summary(weight: Array) -> str:
    """Mean and range of a weight; its shape where it is traced or on other devices."""
    values = concrete(weight)
    if values is None or not values.size:
        return f"{np.shape(weight)}"
    low, mean, high = (float(f(values)) for f in (np.min, np.mean, np.max))
    return (
        f"{mean:.3g}" if low == high else f"mean {mean:.3g} ({low:.3g} to {high:.3g})"
    )


def _alternative_name(mix: Mix | None) -> str:
    if mix is None:
        return "T of its own scores"
    student, other = (concrete(factor) for factor in mix)
    if student is None or other is None or student.size > 1 or other.size > 1:
        return "T = softmax(α·student + β·other)"
    if not student and not other:
        return "T uniform"
    terms = zip((float(student), float(other)), ("student", "other"))
    text = " + ".join(
        name if factor == 1 else f"{factor:.3g}·{name}"
        for factor, name in terms
        if factor
    )
    return f"T = softmax({text})"


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)
