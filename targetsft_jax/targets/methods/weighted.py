"""Weighted log-likelihood: g = w·(p − δ_y), so that Q = w δ_y + (1 − w) p."""

import math

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

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
    """(1 − p_y^α)/α, exact in value and derivative for every α and p_y."""
    rows: Rows = target.rows  # type: ignore[assignment]
    if alpha == 0:
        return rows.nll
    # Beyond the clamp the value continues along its tangent, with the weight as slope.
    largest = rows.largest_exponent(alpha)
    x = jnp.minimum(alpha * rows.log_prob, largest)
    excess = jnp.maximum(alpha * rows.log_prob - largest, 0)
    return (_one_minus_exp(x) - math.exp(largest) * excess) / alpha


def _one_minus_exp(x: Array) -> Array:
    """1 − e^x, exact in value and derivative.

    1 − e^x loses the value at small x, and expm1 loses the derivative at large
    negative x (it is differentiated as result + 1): each is used where it is exact.
    """
    far = x < -math.log(2)
    return jnp.where(
        far, 1 - jnp.exp(jnp.where(far, x, 0)), -jnp.expm1(jnp.where(far, 0, x))
    )


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


def deft(rows: Rows) -> QTarget:
    """Dynamic entropy fine-tuning (DEFT): an exponent of p_y from the concentration.

        Q = p_y^α δ_y + (1 − p_y^α) p,  α = Σ_k p_k²

    Near SFT where the model is undecided (α → 0), DFT where it is certain (α = 1).

    See *DEFT: Dynamic Entropy Fine-Tuning for Adaptive Gradient Allocation in LLM
    Training* (https://arxiv.org/abs/2602.11424).

    Args:
        rows: row statistics.

    Returns:
        a = p_y^α.
    """
    return QTarget(rows.power_of(rows.concentration))


def _deft_value(target: QTarget) -> Array:
    """(1 − p_y^α)/α with α constant in θ, as published."""
    rows: Rows = target.rows  # type: ignore[assignment]
    exponent = stop_gradient(rows.concentration)
    return _one_minus_exp(exponent * rows.log_prob) / exponent


ENTRIES.append(Method(deft, label="p_y^Σp²", value=_deft_value, proper=True))


def idft(rows: Rows, *, beta: float) -> QTarget:
    """In-distribution fine-tuning (IDFT): an exponent of p_y from −log p_y against H.

        Q = w δ_y + (1 − w) p,  w = p_y^e,  e = clip(exp(−(log p_y + H)/β), 0.1, 2)

    A label as likely as the model's entropy H predicts has e = 1, as in DFT; a less
    likely one has e > 1 and is trusted less.

    See *Towards On-Policy SFT: Distribution Discriminant Theory and its Applications in
    LLM Training* (https://arxiv.org/abs/2602.12222).

    Args:
        rows: row statistics.
        beta: β.

    Returns:
        a = w.
    """
    # Clipped before the exponential: log p_y may be −inf.
    low, high = (math.log(x) for x in IDFT_EXPONENTS)
    surprise = -(rows.log_prob + rows.entropy) / beta
    return QTarget(rows.power_of(jnp.exp(jnp.clip(surprise, low, high))))


IDFT_EXPONENTS = 0.1, 2.0
"""Bounds of the exponent of IDFT, as in the official code."""

ENTRIES.append(
    Method(
        idft,
        label="p_y^e",
        hyper={
            "beta": Hyper(
                1.0,
                "Temperature β of the exponent e = exp(−(log p_y + H)/β).",
                more_than(0),
            )
        },
        proper=True,
    )
)


def prift(rows: Rows, *, reference_prob: Array) -> QTarget:
    """Prior-weighted fine-tuning (PriFT): each label weighted by the base model's p_y.

        Q = w δ_y + (1 − w) p,  w = π_ref(y)

    DFT with the probabilities of a frozen model: the weight of a label does not grow
    while it is learned, and may be computed once, offline.

    See *PriFT* (https://arxiv.org/abs/2606.09396).

    Args:
        rows: row statistics.
        reference_prob: π_ref(y) [...].

    Returns:
        a = π_ref(y).
    """
    return QTarget(reference_prob)


ENTRIES.append(Method(prift, label="π_ref(y)", needs=("reference_prob",), proper=True))


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
