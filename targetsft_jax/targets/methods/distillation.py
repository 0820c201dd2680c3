"""Methods with a teacher: distillation, its hybrid with SFT, and Target-SFT."""

from typing import Any

import jax.numpy as jnp

from targetsft_jax.keys import between
from targetsft_jax.targets.method import Hyper, Method, is_share
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows

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


def target_sft(rows: Rows, *, eta: float, gamma: Any) -> QTarget:
    """Target-SFT: weight p_y on the label, the remaining mass on a guided prior.

        Q = p_y δ_y + (1 − p_y) normalise(p^(1−η) π_T^η)

    See *A Unifying Lens on Supervised Fine-Tuning Through Target Distribution Design*
    (https://arxiv.org/abs/2606.11189).

    Args:
        rows: row statistics, with the teacher's logits.
        eta: η, from the student (0) to the teacher (1).
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
                static=True,
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
