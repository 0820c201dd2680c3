"""The methods: one short function each, and one table of them.

A method reads row statistics and returns a `QTarget`: two weights per token and the
mix that makes its alternative. Gradient, target, metrics, fused loss, tests and the
README's table all follow from that and from the `METHODS` entry.

Its published *value* is a·(−log p_y) + b·(−Σ T log p) unless the entry names another
one. Values are compared with other frameworks; gradients never come from them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.compose import custom, custom_needs
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows, times

Build = Callable[..., QTarget]
Value = Callable[..., Array]


@dataclass(frozen=True)
class Method:
    """An objective as a point in the plane of targets.

    Attributes:
        build: (rows, **inputs, **hyper) -> QTarget; inputs are per-token arrays [...].
        source: where the formula comes from.
        label, alternative, mix: a, b and (α, β) as readers write them.
        needs: names of the inputs beyond logits and labels, or a function of the
            hyper-parameters that returns them.
        defaults: hyper-parameters and their default values.
        domain: for some of them what is expected, and whether a value is that; numbers
            must be finite in any case, and null is accepted where it is the default.
        value: (target, **inputs, **hyper) -> the published per-token loss [...], where
            it is not the weighted cross-entropy.
        proper: whether Q is a distribution for every input, so that negative mass need
            not be looked for; or a function of the hyper-parameters that says so.
    """

    build: Build
    source: str
    label: str
    alternative: str = "0"
    mix: str = "–"
    needs: tuple[str, ...] | Callable[..., tuple[str, ...]] = ()
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    domain: Mapping[str, tuple[str, Callable[[Any], bool]]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    value: Value | None = None
    proper: bool | Callable[..., bool] = False

    def refusal(self, **hyper: Any) -> str | None:
        """What is wrong with the first hyper-parameter for which the method has no
        meaning, if one is: to be said before anything is computed. Arrays pass."""
        for key, default in self.defaults.items():
            value = hyper[key]
            if hasattr(value, "shape") or (value is None and default is None):
                continue
            expected, accepts = self.domain.get(
                key, ("a finite number", lambda _: True)
            )
            finite = not isinstance(value, float) or math.isfinite(value)
            if not (finite and accepts(value)):
                return f"{key} is {value!r}; expected {expected}"
        return None

    def inputs(self, **hyper: Any) -> tuple[str, ...]:
        """Names of the inputs that this method needs under these hyper-parameters."""
        return self.needs(**hyper) if callable(self.needs) else self.needs

    def is_proper(self, **hyper: Any) -> bool:
        """Whether no input makes Q signed under these hyper-parameters."""
        if not callable(self.proper):
            return self.proper
        return self.proper(**{key: hyper[key] for key in self.defaults})

    def objective(self, rows: Rows, **arguments: Any) -> Array:
        """The published loss [...], differentiable in the logits behind `rows`."""
        return self.published(self.build(rows, **arguments).bind(rows), **arguments)

    def published(self, target: QTarget, **arguments: Any) -> Array:
        """The published loss [...] of a target that is built and bound already."""
        if self.value is None:
            return target.cross_entropy()
        return self.value(target, **arguments)


def sft(rows: Rows) -> QTarget:
    """Maximum likelihood. Q = δ_y."""
    return QTarget(jnp.ones_like(rows.prob))


def dft(rows: Rows) -> QTarget:
    """DFT, the p-loss: each token's likelihood weighs it. Q = p_y δ_y + (1 − p_y) p."""
    return QTarget(rows.prob)


def alpha(rows: Rows, *, alpha: float) -> QTarget:
    """The α-family (1 − p_y^α)/α: weight p_y^α; 0 is the log-likelihood.

    A negative α weighs unlikely tokens up without bound; where p_y^α nears the end of
    the dtype's range it is held there, and the value goes on linearly in log p_y.
    """
    return QTarget(rows.power(alpha))


def profit(rows: Rows, *, tau: float) -> QTarget:
    """ProFiT: only tokens that the model finds likelier than τ."""
    return QTarget((rows.prob > tau).astype(rows.prob.dtype))


def eaft(
    rows: Rows, *, top_k: int, entropy_norm: float | None, power: float
) -> QTarget:
    """EAFT: weight H̃^power, the entropy of the top k tokens over `entropy_norm`.

    `entropy_norm=None` is ln(top_k), the paper's; 3.0 is the official code's constant.
    """
    return QTarget(rows.top_share(top_k, entropy_norm) ** power)


def iw_sft(rows: Rows, *, trajectory_weight: Array) -> QTarget:
    """iw-SFT: one importance weight per trajectory (see `trajectory_weight`)."""
    return QTarget(trajectory_weight)


def cft(rows: Rows, *, critical_mask: Array) -> QTarget:
    """Critical-token fine-tuning: only tokens whose alternatives all fail."""
    return QTarget(critical_mask)


def label_smoothing(rows: Rows, *, smoothing: float) -> QTarget:
    """Q = (1 − λ) δ_y + λ U, with U uniform over the V entries given."""
    return QTarget(_constant(rows, 1 - smoothing), _constant(rows, smoothing), (0, 0))


def kl(rows: Rows, *, kl_weight: float) -> QTarget:
    """SFT + λ·KL(reference ‖ p). Q = δ_y + λ (reference − p): signed."""
    return QTarget(_constant(rows, 1), _constant(rows, kl_weight), (0, 1))


def asft(rows: Rows, *, kl_weight: float) -> QTarget:
    """ASFT: DFT + λ·KL(base ‖ p); signed where p_y > 1 − λ."""
    return QTarget(rows.prob, _constant(rows, kl_weight), (0, 1))


def psft(rows: Rows, *, old_logprob: Array, clip_epsilon: float) -> QTarget:
    """PSFT: weight r = p_y / π_old(y) while r ≤ 1 + ε, then nothing."""
    log_ratio = _log_ratio(rows, old_logprob)
    # Not as "kept": a NaN is no ratio that is too large, and must be seen.
    clipped = log_ratio > math.log1p(clip_epsilon)
    return QTarget(jnp.where(clipped, 0, jnp.exp(jnp.where(clipped, 0, log_ratio))))


def gem(rows: Rows, *, beta: float, variant: str) -> QTarget:
    """GEM: towards the label, away from q = softmax(logits/β). p drops out of g.

    `variant="logsigmoid"`, which the published scripts use, weighs q by
    σ(0.01 (z_k − z_y)): no mix of logits, so its scores are given.
    """
    if variant == "linear":
        return QTarget(_constant(rows, 1), _constant(rows, -1), (1 / beta, 0))
    if variant not in _GEM_VARIANTS:
        raise ValueError(
            f"gem: variant is {variant!r}; expected one of {', '.join(_GEM_VARIANTS)}"
        )
    sharpened = rows.shifted / beta
    scores = sharpened - _softplus(-_GEM_SLOPE * _gap(rows))
    weight = rows.total(jnp.exp(scores)) / rows.total(jnp.exp(sharpened))
    return QTarget(weight, -weight, scores=scores)


def kd(rows: Rows) -> QTarget:
    """Distillation: Q is the teacher."""
    return QTarget(_constant(rows, 0), _constant(rows, 1), (0, 1))


def kd_h(rows: Rows, *, kd_weight: float) -> QTarget:
    """Hybrid distillation: Q = (1 − λ) δ_y + λ teacher."""
    return QTarget(_constant(rows, 1 - kd_weight), _constant(rows, kd_weight), (0, 1))


def target_sft(rows: Rows, *, eta: float, gamma: Any) -> QTarget:
    """Target-SFT: trust the label by p_y, give the rest to a guided prior.

        Q = p_y δ_y + (1 − p_y) normalise(p^(1−η) π_T^η)

    `gamma` (a number or [...]) replaces p_y where it is given.
    """
    if gamma is None:
        return QTarget(rows.prob, rows.complement, (1 - eta, eta))
    trust = jnp.asarray(gamma, rows.logits.dtype)
    return QTarget(trust, 1 - trust, (1 - eta, eta))


def _alpha_value(target: QTarget, *, alpha: float) -> Array:
    """(1 − p_y^α)/α, exact in value and derivative for every α and p_y.

    1 − e^x loses the value at small x, and expm1 loses the derivative at large
    negative x (it is taken as result + 1): each is used where it is right.
    """
    rows: Rows = target.rows  # type: ignore[assignment]
    if alpha == 0:
        return rows.nll
    # Where the weight is held, the value is the tangent: its derivative is the weight.
    largest = rows.largest_exponent(alpha)
    x = jnp.minimum(alpha * rows.log_prob, largest)
    beyond = jnp.maximum(alpha * rows.log_prob - largest, 0)
    far = x < -math.log(2)
    share = jnp.where(
        far, 1 - jnp.exp(jnp.where(far, x, 0)), -jnp.expm1(jnp.where(far, 0, x))
    )
    return (share - math.exp(largest) * beyond) / alpha


def _kl_value(target: QTarget, **_: Any) -> Array:
    """a·(−log p_y) + b·KL(T ‖ p): the entropy of T is a constant of the value."""
    constant = times(target.alternative_weight, target.alternative.entropy)  # type: ignore[arg-type]
    return target.cross_entropy() - stop_gradient(constant)


def _psft_value(target: QTarget, *, old_logprob: Array, clip_epsilon: float) -> Array:
    """−min(r, 1 + ε), clipped in log space, where r cannot overflow."""
    log_ratio = _log_ratio(target.rows, old_logprob)  # type: ignore[arg-type]
    # Not jnp.minimum: at a tie it halves the derivative, and r = 1 + ε is kept whole.
    largest = math.log1p(clip_epsilon)
    return -jnp.exp(jnp.where(log_ratio > largest, largest, log_ratio))


_GEM_SLOPE = 0.01
_GEM_VARIANTS = ("linear", "logsigmoid")


def _gap(rows: Rows) -> Array:
    """z_k − z_y [..., V]; finite also for −inf logits, whose mass is 0 anyway."""
    floor = jnp.finfo(rows.logits.dtype).min / 4
    tokens = jnp.maximum(rows.shifted, floor)
    return tokens - jnp.maximum(rows.label_shifted, floor)[..., None]


def _softplus(x: Array) -> Array:
    return jnp.logaddexp(x, 0.0)


def _log_ratio(rows: Rows, old_logprob: Array) -> Array:
    """log p_y − log π_old(y) [...]; −inf, no weight, where both are impossible."""
    old = jnp.asarray(old_logprob, rows.logits.dtype)
    impossible = (rows.log_prob == -jnp.inf) & (old == -jnp.inf)
    ratio = jnp.where(impossible, 0, rows.log_prob) - jnp.where(impossible, 0, old)
    return jnp.where(impossible, -jnp.inf, ratio)


def _constant(rows: Rows, value: Any) -> Array:
    return jnp.full(rows.labels.shape, value, rows.logits.dtype)


def _is_share(value: Any) -> bool:
    """A number in [0, 1]; of one per token nothing is known."""
    return isinstance(value, int | float) and 0 <= value <= 1


def _hyper(**defaults: Any) -> Mapping[str, Any]:
    return MappingProxyType(defaults)


_NOT_NEGATIVE = ("a number, 0 or more", lambda value: value >= 0)
_POSITIVE = ("a number more than 0", lambda value: value > 0)
_VARIANTS = ("linear", "logsigmoid")

_TEACHER, _REFERENCE = ("teacher_logits",), ("reference_logits",)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "sft": Method(sft, "maximum likelihood", "1", proper=True),
        "dft": Method(dft, "arXiv 2508.05629", "p_y", proper=True),
        "alpha": Method(
            alpha,
            "Beyond Log-Likelihood (BLL)",
            "p_y^α",
            defaults=_hyper(alpha=0.5),
            value=_alpha_value,
        ),
        "profit": Method(
            profit,
            "arXiv 2601.09195",
            "1[p_y > τ]",
            defaults=_hyper(tau=0.1),
            domain={"tau": ("a probability in [0, 1)", lambda tau: 0 <= tau < 1)},
            proper=True,
        ),
        "eaft": Method(
            eaft,
            "arXiv 2601.02151",
            "H̃",
            defaults=_hyper(top_k=20, entropy_norm=None, power=1.0),
            # The entropy of one token is 0, and so is ln 1.
            domain={
                "top_k": ("2 tokens or more", lambda k: k >= 2),
                "entropy_norm": ("a number more than 0, or null", lambda n: n > 0),
                "power": _NOT_NEGATIVE,
            },
        ),
        "iw_sft": Method(iw_sft, "arXiv 2507.12856", "w", needs=("trajectory_weight",)),
        "cft": Method(cft, "arXiv 2510.10974", "c", needs=("critical_mask",)),
        "label_smoothing": Method(
            label_smoothing,
            "uniform smoothing",
            "1 − λ",
            "λ",
            "(0, 0): uniform",
            defaults=_hyper(smoothing=0.1),
            proper=lambda smoothing: _is_share(smoothing),
        ),
        "kl": Method(
            kl,
            "arXiv 2509.04259",
            "1",
            "λ",
            "(0, 1) reference",
            needs=_REFERENCE,
            defaults=_hyper(kl_weight=0.05),
            domain={"kl_weight": _NOT_NEGATIVE},
            value=_kl_value,
        ),
        "asft": Method(
            asft,
            "arXiv 2509.23753",
            "p_y",
            "λ",
            "(0, 1) reference",
            needs=_REFERENCE,
            defaults=_hyper(kl_weight=0.05),
            domain={"kl_weight": _NOT_NEGATIVE},
            value=_kl_value,
        ),
        "psft": Method(
            psft,
            "arXiv 2508.17784",
            "r·1[r ≤ 1+ε]",
            needs=("old_logprob",),
            defaults=_hyper(clip_epsilon=0.28),
            domain={"clip_epsilon": _NOT_NEGATIVE},
            value=_psft_value,
        ),
        "gem": Method(
            gem,
            "arXiv 2408.16673",
            "1",
            "−1",
            "(1/β, 0)",
            defaults=_hyper(beta=0.7, variant="linear"),
            domain={
                "beta": _POSITIVE,
                "variant": (
                    f"one of {', '.join(_GEM_VARIANTS)}",
                    lambda variant: variant in _GEM_VARIANTS,
                ),
            },
        ),
        "kd": Method(
            kd,
            "forward distillation, T = 1",
            "0",
            "1",
            "(0, 1) teacher",
            needs=_TEACHER,
            proper=True,
        ),
        "kd_h": Method(
            kd_h,
            "hybrid distillation",
            "1 − λ",
            "λ",
            "(0, 1) teacher",
            needs=_TEACHER,
            defaults=_hyper(kd_weight=0.5),
            value=_kl_value,
            proper=lambda kd_weight: _is_share(kd_weight),
        ),
        "target_sft": Method(
            target_sft,
            "arXiv 2606.11189",
            "p_y",
            "1 − p_y",
            "(1−η, η) teacher",
            needs=_TEACHER,
            defaults=_hyper(eta=0.5, gamma=None),
            proper=lambda eta, gamma: gamma is None,
        ),
        "custom": Method(
            custom,
            "composed in the config",
            "γ",
            "1 − γ",
            "by residual",
            needs=custom_needs,
            defaults=_hyper(gamma="probability", residual="model"),
        ),
    }
)

ALIASES: Mapping[str, str] = MappingProxyType({"p_loss": "dft"})
