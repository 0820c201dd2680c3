"""Methods with a teacher: distillation, its hybrid with SFT, and Target-SFT."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from targetsft_jax.keys import between
from targetsft_jax.targets.method import Hyper, Method, is_share
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows, zero_safe_product

ENTRIES: list[Method] = []


def kd(rows: Rows) -> QTarget:
    """Distillation (KD) at temperature 1: the teacher is the target.

        Q = π_T

    See *Distilling the Knowledge in a Neural Network*
    (https://arxiv.org/abs/1503.02531).

    Args:
        rows: row statistics, with the teacher's logits.

    Returns:
        a = 0, b = 1, T = π_T.
    """
    return QTarget(rows.constant(0), rows.constant(1), (0, 1))


ENTRIES.append(
    Method(
        kd,
        label="0",
        alternative="1",
        mix="(0, 1) teacher",
        needs=("teacher_logits",),
        proper=True,
    )
)


def kd_h(rows: Rows, *, kd_weight: float) -> QTarget:
    """Hybrid distillation (KD-H): a convex combination of label and teacher.

        Q = (1 − λ) δ_y + λ π_T

    See *Distilling the Knowledge in a Neural Network*
    (https://arxiv.org/abs/1503.02531).

    Args:
        rows: row statistics, with the teacher's logits.
        kd_weight: λ.

    Returns:
        a = 1 − λ, b = λ, T = π_T.
    """
    return QTarget(rows.constant(1 - kd_weight), rows.constant(kd_weight), (0, 1))


ENTRIES.append(
    Method(
        kd_h,
        label="1 − λ",
        alternative="λ",
        mix="(0, 1) teacher",
        needs=("teacher_logits",),
        hyper={
            "kd_weight": Hyper(
                0.5, "Weight λ of the teacher in the target.", between(0, 1)
            )
        },
        value=lambda target, **_: target.divergence(),
        proper=lambda kd_weight: is_share(kd_weight),
    )
)


def reverse_kl(rows: Rows) -> QTarget:
    """Reverse KL to the teacher, the loss of on-policy distillation.

        Q = p − p ∘ (log(p / π_T) − KL(p ‖ π_T))

    The value is KL(p ‖ π_T). Its gradient is the tangent of the guided residual at the
    student: with G_η = normalise(p^(1−η) π_T^η), g = lim_{η→0} (p − G_η) / η.

    See *On-Policy Distillation of Language Models* (https://arxiv.org/abs/2306.13649).

    Args:
        rows: row statistics, with the teacher's logits.

    Returns:
        a = 0, b = max_k r_k and T = p ∘ (1 − r/b), with r = log(p / π_T) − KL; no
        pull where the student has mass and the teacher none, since the value is
        infinite there.
    """
    ratio = rows.log_probabilities - rows.other_log_probabilities
    return _descent(rows, ratio, 1.0)


def _reverse_kl_value(target: QTarget) -> Array:
    rows: Rows = target.rows  # type: ignore[assignment]
    second = rows.other_log_probabilities
    excluded = (rows.probabilities > 0) & (second == -jnp.inf)
    is_infinite = rows.highest(excluded.astype(rows.logits.dtype)) > 0
    both = (rows.probabilities > 0) & ~excluded
    first = jnp.where(both, rows.log_probabilities, 0)
    mean = _mean_ratio(rows, first - jnp.where(both, second, 0))
    # Infinite, without the NaN that its derivative would be.
    return jnp.where(is_infinite, jnp.inf, mean)


ENTRIES.append(
    Method(
        reverse_kl,
        label="0",
        alternative="max r",
        needs=("teacher_logits",),
        value=_reverse_kl_value,
    )
)


def jsd(rows: Rows, *, beta: float) -> QTarget:
    """Generalised Jensen-Shannon divergence between teacher and student (GKD).

        Q = p − (1 − β) p ∘ (log(p / M) − KL(p ‖ M)),  M = β π_T + (1 − β) p

    The value is β KL(π_T ‖ M) + (1 − β) KL(p ‖ M).

    See *On-Policy Distillation of Language Models* (https://arxiv.org/abs/2306.13649).

    Args:
        rows: row statistics, with the teacher's logits.
        beta: β; the divided value tends to the forward KL at 0 and to the reverse KL
            at 1.

    Returns:
        a = 0, b = max_k r_k and T = p ∘ (1 − r/b), with r = (1 − β)(log(p/M) − KL).
    """
    return _descent(rows, _log_ratio_to_mixture(rows, beta), 1 - beta)


def _jsd_value(target: QTarget, *, beta: float) -> Array:
    rows: Rows = target.rows  # type: ignore[assignment]
    ratio = _log_ratio_to_mixture(rows, beta)
    teacher = jnp.exp(rows.other_log_probabilities)
    # log(π_T / M) = log(p / M) + log π_T − log p; the student may have no mass there.
    gap = rows.other_log_probabilities - rows.log_probabilities
    has_student = rows.log_probabilities != -jnp.inf
    of_teacher = jnp.where(
        has_student,
        jnp.where(has_student, ratio, 0) + jnp.where(has_student, gap, 0),
        -math.log(beta),
    )
    divergence = rows.total(zero_safe_product(teacher, of_teacher))
    return beta * divergence + (1 - beta) * _mean_ratio(rows, ratio)


ENTRIES.append(
    Method(
        jsd,
        label="0",
        alternative="max r",
        needs=("teacher_logits",),
        hyper={
            "beta": Hyper(
                0.5,
                "Weight β of the teacher in the mixture M = β π_T + (1 − β) p.",
                between(0, 1, closed="()"),
                static=True,
            )
        },
        value=_jsd_value,
    )
)


def _log_ratio_to_mixture(rows: Rows, beta: float) -> Array:
    """log(p / M) [..., V] = −log(1 − β + β π_T / p), at most −log(1 − β)."""
    gap = rows.other_log_probabilities - rows.log_probabilities
    # Neither model has mass: the entry has no effect.
    gap = jnp.where(jnp.isnan(gap), 0, gap)
    return -jnp.logaddexp(math.log1p(-beta), math.log(beta) + gap)


def _mean_ratio(rows: Rows, ratio: Array) -> Array:
    """Σ p · ratio [...]."""
    return rows.total(zero_safe_product(rows.probabilities, ratio))


def _descent(rows: Rows, ratio: Array, scale: float) -> QTarget:
    """Target with the gradient scale · p ∘ (ratio − Σ p ratio).

    Written as b·(p − T): b is the largest entry of r = scale·(ratio − Σ p ratio) where
    p has mass, the smallest weight for which T = p ∘ (1 − r/b) has no negative mass.
    """
    mean = _mean_ratio(rows, ratio)
    defined = jnp.isfinite(mean)
    mean = jnp.where(defined, mean, 0)[..., None]
    has_mass = (rows.probabilities > 0) & defined[..., None]
    r = scale * jnp.where(has_mass, jnp.where(has_mass, ratio, 0) - mean, 0)
    highest = rows.highest(jnp.where(has_mass, r, -jnp.inf))
    weight = jnp.where(defined & (highest > 0), highest, 0)
    divisor = jnp.where(weight > 0, weight, 1)[..., None]
    # Rounding may put the largest entry just above 1.
    share = jnp.maximum(1 - r / divisor, 0)
    scores = jnp.where(has_mass, rows.log_probabilities + jnp.log(share), -jnp.inf)
    return QTarget(rows.constant(0), weight, scores=scores)


def target_sft(rows: Rows, *, eta: float, gamma: Any) -> QTarget:
    """Target-SFT: weight p_y on the label, the remaining mass on a guided prior.

        Q = p_y δ_y + (1 − p_y) normalise(p^(1−η) π_T^η)

    See *A Unifying Lens on Supervised Fine-Tuning Through Target Distribution Design*
    (https://arxiv.org/abs/2606.11189).

    Args:
        rows: row statistics, with the teacher's logits.
        eta: η, from the student (0) to the teacher (1); a number or array [...].
        gamma: a number or array [...] in place of p_y; None for p_y.

    Returns:
        a = p_y, b = 1 − p_y, T = softmax((1 − η) z + η z_T).
    """
    if gamma is None:
        return QTarget(rows.prob, rows.complement, (1 - eta, eta))
    weight = jnp.asarray(gamma, rows.logits.dtype)
    return QTarget(weight, 1 - weight, (1 - eta, eta))


ENTRIES.append(
    Method(
        target_sft,
        label="p_y",
        alternative="1 − p_y",
        mix="(1−η, η) teacher",
        needs=("teacher_logits",),
        hyper={
            "eta": Hyper(
                0.5,
                "Guidance η of the prior, from the student (0) to the teacher (1); the "
                "default is an assumption, since the paper's value is not public.",
                between(0, 1),
            ),
            "gamma": Hyper(
                None,
                "Fixed weight γ of the label; null for p_y, as in the paper.",
                between(0, 1),
            ),
        },
        proper=lambda eta, gamma: gamma is None,
    )
)


def taid(rows: Rows, *, eta: float) -> QTarget:
    """Distillation from an interpolated teacher (TAID), at one point of training.

        Q = softmax((1 − η) z + η z_T)

    The target moves from the student's own distribution to the teacher's during
    training. A run has η from 0 to 1, linear in the steps; the published adaptive
    schedule, which reads the loss, is not implemented.

    See *TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge
    Transfer in Language Models* (https://arxiv.org/abs/2501.16937).

    Args:
        rows: row statistics, with the teacher's logits.
        eta: η, a number or array [...].

    Returns:
        a = 0, b = 1, T = softmax((1 − η) z + η z_T).
    """
    return QTarget(rows.constant(0), rows.constant(1), (1 - eta, eta))


ENTRIES.append(
    Method(
        taid,
        label="0",
        alternative="1",
        mix="(1−η, η) teacher",
        needs=("teacher_logits",),
        hyper={
            "eta": Hyper(
                1.0,
                "Interpolation η, from the student (0) to the teacher (1); in a run "
                "from 0 to 1 over training.",
                between(0, 1),
                over_training=(0.0, 1.0),
            )
        },
        value=lambda target, **_: target.divergence(),
        proper=True,
    )
)
