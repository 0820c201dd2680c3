"""Regularised SFT: label smoothing, KL penalties, a clipped ratio, entropy."""

import math

import jax.numpy as jnp
from jax import Array

from targetsft_jax.keys import at_least, between, more_than, one_of
from targetsft_jax.targets.method import Hyper, Method, is_share
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows

ENTRIES: list[Method] = []


def label_smoothing(rows: Rows, *, smoothing: float) -> QTarget:
    """Label smoothing: the one-hot target mixed with the uniform distribution.

        Q = (1 − λ) δ_y + λ U

    See *Rethinking the Inception Architecture for Computer Vision*
    (https://arxiv.org/abs/1512.00567).

    Args:
        rows: row statistics.
        smoothing: λ.

    Returns:
        a = 1 − λ, b = λ, and T = U, uniform over the V entries of the logits.
    """
    return QTarget(rows.constant(1 - smoothing), rows.constant(smoothing), (0, 0))


ENTRIES.append(
    Method(
        label_smoothing,
        label="1 − λ",
        alternative="λ",
        mix="(0, 0): uniform",
        hyper={
            "smoothing": Hyper(
                0.1,
                "Weight λ of the uniform distribution in the target.",
                between(0, 1),
            )
        },
        proper=lambda smoothing: is_share(smoothing),
    )
)


def kl(rows: Rows, *, kl_weight: float) -> QTarget:
    """SFT with a penalty λ·KL(π_ref ‖ p); Q is signed.

        Q = δ_y + λ (π_ref − p)

    See *RL's Razor: Why Online Reinforcement Learning Forgets Less*
    (https://arxiv.org/abs/2509.04259).

    Args:
        rows: row statistics, with the reference's logits.
        kl_weight: λ.

    Returns:
        a = 1, b = λ, T = π_ref.
    """
    return QTarget(rows.constant(1), rows.constant(kl_weight), (0, 1))


_KL_WEIGHT = Hyper(
    0.05,
    "Weight λ of KL(reference ‖ student); 0.05 and 0.1 are published with ASFT.",
    at_least(0),
)

ENTRIES.append(
    Method(
        kl,
        label="1",
        alternative="λ",
        mix="(0, 1) reference",
        needs=("reference_logits",),
        hyper={"kl_weight": _KL_WEIGHT},
        value=lambda target, **_: target.divergence(),
    )
)


def asft(rows: Rows, *, kl_weight: float) -> QTarget:
    """Anchored SFT (ASFT): DFT + λ·KL(π_ref ‖ p); Q is signed where p_y > 1 − λ.

        Q = p_y δ_y + (1 − p_y − λ) p + λ π_ref

    See *Anchored Supervised Fine-Tuning* (https://arxiv.org/abs/2509.23753).

    Args:
        rows: row statistics, with the reference's logits.
        kl_weight: λ.

    Returns:
        a = p_y, b = λ, T = π_ref.
    """
    return QTarget(rows.prob, rows.constant(kl_weight), (0, 1))


ENTRIES.append(
    Method(
        asft,
        label="p_y",
        alternative="λ",
        mix="(0, 1) reference",
        needs=("reference_logits",),
        hyper={"kl_weight": _KL_WEIGHT},
        value=lambda target, **_: target.divergence(),
    )
)


def psft(rows: Rows, *, old_logprob: Array, clip_epsilon: float) -> QTarget:
    """Proximal SFT (PSFT): the label weighted by a clipped ratio to an old policy.

        Q = w δ_y + (1 − w) p,  w = r·1[r ≤ 1 + ε],  r = p_y / π_old(y)

    See *Proximal Supervised Fine-Tuning* (https://arxiv.org/abs/2508.17784).

    Args:
        rows: row statistics.
        old_logprob: log π_old(y) [...].
        clip_epsilon: ε.

    Returns:
        a = w.
    """
    log_ratio = _log_ratio(rows, old_logprob)
    # This way round a NaN ratio is not clipped, and shows in the loss.
    clipped = log_ratio > math.log1p(clip_epsilon)
    return QTarget(jnp.where(clipped, 0, jnp.exp(jnp.where(clipped, 0, log_ratio))))


def _psft_value(target: QTarget, *, old_logprob: Array, clip_epsilon: float) -> Array:
    """−min(r, 1 + ε), clipped in log space, where r cannot overflow."""
    log_ratio = _log_ratio(target.rows, old_logprob)  # type: ignore[arg-type]
    # Not jnp.minimum: at a tie it halves the derivative, and r = 1 + ε is not clipped.
    largest = math.log1p(clip_epsilon)
    return -jnp.exp(jnp.where(log_ratio > largest, largest, log_ratio))


def _log_ratio(rows: Rows, old_logprob: Array) -> Array:
    """log p_y − log π_old(y) [...]; −inf, hence weight 0, where both p are 0."""
    old = jnp.asarray(old_logprob, rows.logits.dtype)
    impossible = (rows.log_prob == -jnp.inf) & (old == -jnp.inf)
    ratio = jnp.where(impossible, 0, rows.log_prob) - jnp.where(impossible, 0, old)
    return jnp.where(impossible, -jnp.inf, ratio)


ENTRIES.append(
    Method(
        psft,
        label="r·1[r ≤ 1+ε]",
        needs=("old_logprob",),
        hyper={
            "clip_epsilon": Hyper(
                0.28,
                "Clip ε: tokens with a ratio above 1 + ε have weight 0.",
                at_least(0),
                static=True,
            )
        },
        value=_psft_value,
    )
)


_GEM_SLOPE = 0.01
_GEM_VARIANTS = ("linear", "logsigmoid")


def gem(rows: Rows, *, beta: float, variant: str) -> QTarget:
    """GEM: a pull to the label and a push from the sharpened model; p cancels in g.

        Q = p + δ_y − softmax(z/β)

    See *Preserving Diversity in Supervised Fine-Tuning of Large Language Models*
    (https://arxiv.org/abs/2408.16673).

    Args:
        rows: row statistics.
        beta: temperature β.
        variant: "linear", as in the paper; or "logsigmoid", as in the published
            scripts, which weights softmax(z/β) by σ(0.01 (z_k − z_y)).

    Returns:
        a = 1, b = −1, T = softmax(z/β); "logsigmoid" has a < 1, b = −a, and T
        defined by its scores, since it is not a mix of logits.

    Raises:
        ValueError: an unknown variant.
    """
    if variant == "linear":
        return QTarget(rows.constant(1), rows.constant(-1), (1 / beta, 0))
    if variant not in _GEM_VARIANTS:
        raise ValueError(
            f"gem: variant is {variant!r}; expected one of {', '.join(_GEM_VARIANTS)}"
        )
    sharpened = rows.shifted / beta
    scores = sharpened - jnp.logaddexp(-_GEM_SLOPE * _gap(rows), 0.0)
    weight = rows.total(jnp.exp(scores)) / rows.total(jnp.exp(sharpened))
    return QTarget(weight, -weight, scores=scores)


def _gap(rows: Rows) -> Array:
    """z_k − z_y [..., V]; finite also for −inf logits, whose mass is 0."""
    floor = jnp.finfo(rows.logits.dtype).min / 4
    tokens = jnp.maximum(rows.shifted, floor)
    return tokens - jnp.maximum(rows.label_shifted, floor)[..., None]


ENTRIES.append(
    Method(
        gem,
        label="1",
        alternative="−1",
        mix="(1/β, 0)",
        hyper={
            "beta": Hyper(
                0.7,
                "Temperature β of the model to push away from.",
                more_than(0),
                static=True,
            ),
            "variant": Hyper(
                "linear",
                "linear as in the paper; logsigmoid as in the published scripts.",
                one_of(_GEM_VARIANTS),
            ),
        },
    )
)
