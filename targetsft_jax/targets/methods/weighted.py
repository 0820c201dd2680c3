"""Weighted log-likelihood: g = w·(p − δ_y), so that Q = w δ_y + (1 − w) p."""

import math

import jax.numpy as jnp
from jax import Array

from targetsft_jax.keys import Domain, at_least, between, more_than
from targetsft_jax.targets.method import Hyper, Method
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows

ENTRIES: list[Method] = []

# The entropy of one token is 0, and so is ln 1. No vocabulary has a million tokens.
TOP_K = Domain("2 to 1000000 tokens", lambda k: 2 <= k <= 1_000_000)


def sft(rows: Rows) -> QTarget:
    """Supervised fine-tuning by maximum likelihood.

        Q = δ_y

    Args:
        rows: row statistics.

    Returns:
        a = 1.
    """
    return QTarget(rows.constant(1))


ENTRIES.append(Method(sft, label="1", proper=True))


def dft(rows: Rows) -> QTarget:
    """Dynamic fine-tuning (DFT), the p-loss: each label weighted by its likelihood.

        Q = p_y δ_y + (1 − p_y) p

    See *On the Generalization of SFT: A Reinforcement Learning Perspective with Reward
    Rectification* (https://arxiv.org/abs/2508.05629).

    Args:
        rows: row statistics.

    Returns:
        a = p_y.
    """
    return QTarget(rows.prob)


ENTRIES.append(Method(dft, label="p_y", proper=True))


def alpha(rows: Rows, *, alpha: float) -> QTarget:
    """The α-family of probability-based objectives, (1 − p_y^α)/α.

        Q = p_y^α δ_y + (1 − p_y^α) p

    See *Beyond Log Likelihood: Probability-Based Objectives for Supervised Fine-Tuning
    across the Model Capability Continuum* (https://arxiv.org/abs/2510.00526).

    Args:
        rows: row statistics.
        alpha: exponent; 0 is the log-likelihood. A negative one raises the weight of
            unlikely tokens without bound. Near the end of the dtype's range p_y^α is
            clamped, and the value continues linearly in log p_y.

    Returns:
        a = p_y^α.
    """
    return QTarget(rows.power(alpha))


def _alpha_value(target: QTarget, *, alpha: float) -> Array:
    """(1 − p_y^α)/α, exact in value and derivative for every α and p_y.

    1 − e^x loses the value at small x, and expm1 loses the derivative at large
    negative x (it is differentiated as result + 1): each is used where it is exact.
    """
    rows: Rows = target.rows  # type: ignore[assignment]
    if alpha == 0:
        return rows.nll
    # Beyond the clamp the value continues along its tangent, with the weight as slope.
    largest = rows.largest_exponent(alpha)
    x = jnp.minimum(alpha * rows.log_prob, largest)
    excess = jnp.maximum(alpha * rows.log_prob - largest, 0)
    far = x < -math.log(2)
    share = jnp.where(
        far, 1 - jnp.exp(jnp.where(far, x, 0)), -jnp.expm1(jnp.where(far, 0, x))
    )
    return (share - math.exp(largest) * excess) / alpha


ENTRIES.append(
    Method(
        alpha,
        label="p_y^α",
        hyper={
            "alpha": Hyper(
                0.5,
                "Exponent α: 0 is SFT, 1 the gradient of DFT; the published settings "
                "are 1, 8 and 10. At −1 all tokens have the same expected weight "
                "p·p^α; below, that of unlikely tokens is unbounded.",
                at_least(-1),
                static=True,
            )
        },
        value=_alpha_value,
    )
)


def profit(rows: Rows, *, tau: float) -> QTarget:
    """ProFit: only tokens with a probability above a threshold.

        Q = m δ_y + (1 − m) p,  m = 1[p_y > τ]

    See *ProFit: Leveraging High-Value Signals in SFT via Probability-Guided Token
    Selection* (https://arxiv.org/abs/2601.09195).

    Args:
        rows: row statistics.
        tau: threshold; p_y = τ has weight 0, as in the paper.

    Returns:
        a = m.
    """
    return QTarget((rows.prob > tau).astype(rows.prob.dtype))


ENTRIES.append(
    Method(
        profit,
        label="1[p_y > τ]",
        hyper={
            "tau": Hyper(
                0.1,
                "Threshold τ: tokens with p_y above it are trained.",
                between(0, 1, closed="[)"),
                # A traced NaN would be a threshold that no token reaches.
                static=True,
            )
        },
        proper=True,
    )
)


def eaft(
    rows: Rows, *, top_k: int, entropy_norm: float | None, power: float
) -> QTarget:
    """Entropy-adaptive fine-tuning (EAFT): the label weighted by the model's entropy.

        Q = H̃ δ_y + (1 − H̃) p,  H̃ = (H_k / norm)^power

    with H_k the entropy of the k most probable tokens, renormalised.

    See *Entropy-Adaptive Fine-Tuning: Resolving Confident Conflicts to Mitigate
    Forgetting* (https://arxiv.org/abs/2601.02151).

    Args:
        rows: row statistics.
        top_k: k.
        entropy_norm: norm; None for ln k, as in the paper; the official code has 3.0.
        power: exponent; 1 or 2 in the official code.

    Returns:
        a = H̃.
    """
    return QTarget(rows.top_share(top_k, entropy_norm) ** power)


ENTRIES.append(
    Method(
        eaft,
        label="H̃",
        hyper={
            "top_k": Hyper(
                20,
                "Number k of most probable tokens whose entropy is the weight.",
                TOP_K,
            ),
            "entropy_norm": Hyper(
                None,
                "Divisor of that entropy; null for ln(top_k), as in the paper; the "
                "official code has 3.0.",
                more_than(0),
            ),
            "power": Hyper(
                1.0,
                "Exponent of the weight; the official code has 1 and 2.",
                at_least(0),
                static=True,
            ),
        },
    )
)


def iw_sft(rows: Rows, *, trajectory_weight: Array) -> QTarget:
    """Importance-weighted SFT (iw-SFT): one weight per trajectory.

        Q = w δ_y + (1 − w) p,  w = q(trajectory) / π_ref(trajectory)

    See *Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be
    improved)* (https://arxiv.org/abs/2507.12856).

    Args:
        rows: row statistics.
        trajectory_weight: w [...]; `targets.trajectory_weight` computes it.

    Returns:
        a = w.
    """
    return QTarget(trajectory_weight)


ENTRIES.append(Method(iw_sft, label="w", needs=("trajectory_weight",)))


def cft(rows: Rows, *, critical_mask: Array) -> QTarget:
    """Critical-token fine-tuning (CFT): only tokens whose alternatives all fail.

        Q = c δ_y + (1 − c) p

    See *Enhancing Large Language Model Reasoning via Selective Critical Token
    Fine-Tuning* (https://arxiv.org/abs/2510.10974).

    Args:
        rows: row statistics.
        critical_mask: c [...], 1 where the token is critical, else 0.

    Returns:
        a = c.
    """
    return QTarget(critical_mask)


ENTRIES.append(Method(cft, label="c", needs=("critical_mask",)))
