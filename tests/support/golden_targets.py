"""Maker of `tests/targets/golden/v7_n8.npz`: published losses in plain float64 numpy.

    python -m tests.support.golden_targets

The package is not imported: losses are the papers' formulas, and their logit gradients
are derived by hand. The committed file was computed by torch from the official
implementations, with gradients by autograd. Inputs agree bit for bit, and values to a
few roundings of the terms of their sums (`test_the_file_equals_its_maker`).

    loss__NAME      [N]      the published per-token loss
    grad__NAME      [N, V]   its gradient in the logits
    negmass__NAME   [N]      Σ max(0, −Q) of Q = p − gradient
"""

from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parents[1] / "targets" / "golden" / "v7_n8.npz"

Arrays = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
"""Loss [N] and gradient [N, V]."""


def inputs() -> Arrays:
    """Eight tokens over seven entries; all logits are exact in bfloat16."""
    return {
        "logits": _numbers(_LOGITS, (8, 7)),
        "labels": np.array([0, 1, 4, 0, 2, 1, 2, 1]),
        "ref_logits": _numbers(_REFERENCE, (8, 7)),
        "teacher_logits": _numbers(_TEACHER, (8, 7)),
        "old_logp": _numbers(_OLD, (8,)),
        "ref_logp": _numbers(_REFERENCE_LABEL, (8,)),
        "q_logp": _numbers(_Q, (8,)),
        "seg": np.array([0, 0, 1, 1, 2, 2, 3, 3]),
        "critical_mask": np.arange(8) >= 6,
    }


def golden() -> Arrays:
    """All arrays of the file by name."""
    arrays = inputs()
    row = _Row(arrays)
    pairs = {
        **_weighted(row, arrays),
        **_regularised(row, arrays),
        **_distilled(row, arrays),
    }
    for name, (loss, gradient) in pairs.items():
        arrays[f"loss__{name}"] = loss
        arrays[f"grad__{name}"] = gradient
        arrays[f"negmass__{name}"] = np.maximum(0, gradient - row.p).sum(-1)
    return arrays


class _Row:
    """p, δ and their logarithms for the logits and labels."""

    def __init__(self, arrays: Arrays):
        self.z, labels = arrays["logits"], arrays["labels"]
        index = np.arange(len(labels))
        self.delta = np.zeros_like(self.z)
        self.delta[index, labels] = 1
        self.log_p = _log_softmax(self.z)
        self.p = np.exp(self.log_p)
        self.gap = self.z - self.z[index, labels][:, None]
        self.log_p_y, self.p_y = self.log_p[index, labels], self.p[index, labels]
        self.nll = -self.log_p_y
        self.pull = self.p - self.delta

    def weighted(self, weight: np.ndarray, value: np.ndarray | None = None) -> Pair:
        """−w log p_y, or another value, with the gradient w (p − δ)."""
        loss = weight * self.nll if value is None else value
        return loss, weight[:, None] * self.pull

    def cross_entropy(self, target: np.ndarray) -> np.ndarray:
        """−Σ target log p."""
        return -(target * self.log_p).sum(-1)

    def divergence(self, log_target: np.ndarray) -> np.ndarray:
        """KL(target ‖ p)."""
        return (np.exp(log_target) * (log_target - self.log_p)).sum(-1)


def _weighted(row: _Row, arrays: Arrays) -> dict[str, Pair]:
    """Losses whose gradient is w (p − δ)."""
    p_y, log_p_y = row.p_y, row.log_p_y
    pairs = {
        "sft": row.weighted(np.ones_like(p_y)),
        "dft": row.weighted(p_y),
        "p_direct": row.weighted(p_y, 1 - p_y),
        "f_sq": row.weighted(2 * p_y * (1 - p_y), (1 - p_y) ** 2),
        "cft": row.weighted(arrays["critical_mask"].astype(float)),
    }
    for a in (0.0, 1e-8, 0.1, 0.5, 2.0, 8.0, -0.5):
        value = row.nll if a == 0 else -np.expm1(a * log_p_y) / a
        pairs[f"alpha_{a:g}"] = row.weighted(np.exp(a * log_p_y), value)
    for tau in (0.1, 0.5):
        pairs[f"profit_{tau}"] = row.weighted((p_y > tau).astype(float))
    high = (p_y >= 0.2).astype(float)
    pairs["bll_topp_0.2"] = row.weighted(high * p_y, high * (1 - p_y))
    pairs["bll_toplogp_0.2"] = row.weighted(high)
    pairs["bll_bottomlogp_0.2"] = row.weighted(1 - high)

    entropy = row.cross_entropy(row.p)
    pairs["eaft_logk"] = row.weighted(entropy / np.log(20))
    pairs["eaft_3"] = row.weighted(entropy / 3.0)
    pairs["eaft_3_a2"] = row.weighted((entropy / 3.0) ** 2)

    same = arrays["seg"][:, None] == arrays["seg"]
    from_self = log_p_y - arrays["ref_logp"]
    from_q = arrays["q_logp"] - arrays["ref_logp"]
    for name, log_weight, low, high in (
        ("iw_mean_self", (same * from_self).sum(-1) / same.sum(-1), 0.0, 16.0),
        ("iw_mean_q", (same * from_q).sum(-1) / same.sum(-1), 0.0, 16.0),
        ("iw_sum_q_clip16", (same * from_q).sum(-1), 0.0, 16.0),
        ("iw_token_self", from_self, 0.2, 1.8),
    ):
        pairs[name] = row.weighted(np.clip(np.exp(log_weight), low, high))

    log_r = log_p_y - arrays["old_logp"]
    for name, x in (("psft", log_r), ("psft_clamp20", np.clip(log_r, -20, 20))):
        r = np.exp(x)
        moves = (r <= 1.28) & (x == log_r)
        pairs[name] = row.weighted(np.where(moves, r, 0), -np.minimum(r, 1.28))
    return pairs


def _regularised(row: _Row, arrays: Arrays) -> dict[str, Pair]:
    """SFT and DFT with a regulariser."""
    pairs = {}
    smooth = 0.9 * row.delta + 0.1 / row.p.shape[-1]
    pairs["ls_0.1"] = row.cross_entropy(smooth), row.p - smooth

    log_ref = _log_softmax(arrays["ref_logits"])
    dft = row.weighted(row.p_y)
    for weight in (0.05, 1.0):
        kl = weight * row.divergence(log_ref)
        to_ref = weight * (row.p - np.exp(log_ref))
        pairs[f"kl_{weight:g}"] = row.nll + kl, row.pull + to_ref
        pairs[f"asft_{weight:g}"] = dft[0] + kl, dft[1] + to_ref
    ratio = row.log_p - log_ref
    reverse = (row.p * ratio).sum(-1)
    slope = row.p * (ratio - reverse[:, None])
    pairs["kl_rev_0.05"] = row.nll + 0.05 * reverse, row.pull + 0.05 * slope

    for beta in (0.7, 1.0):
        q = np.exp(_log_softmax(row.z / beta))
        loss = row.nll - row.cross_entropy(q)
        pairs[f"gem_{beta:g}_linear"] = loss, q - row.delta
    c = np.exp(_log_softmax(row.z / 0.7)) / (1 + np.exp(-0.01 * row.gap))
    gradient = c - c.sum(-1, keepdims=True) * row.delta
    pairs["gem_0.7_logsigmoid"] = (c * row.gap).sum(-1), gradient
    return pairs


def _distilled(row: _Row, arrays: Arrays) -> dict[str, Pair]:
    """Losses with a teacher."""
    p_y = row.p_y[:, None]
    log_t = _log_softmax(arrays["teacher_logits"])
    to_teacher = row.p - np.exp(log_t)
    kl = row.divergence(log_t)
    pairs = {
        "kd_ce": (row.cross_entropy(np.exp(log_t)), to_teacher),
        "kd_kl": (kl, to_teacher),
        "kdh_0.5": (0.5 * row.nll + 0.5 * kl, 0.5 * row.pull + 0.5 * to_teacher),
    }
    warm_t = _log_softmax(arrays["teacher_logits"] / 2)
    warm_p = _log_softmax(row.z / 2)
    loss = (np.exp(warm_t) * (warm_t - warm_p)).sum(-1)
    pairs["kd_kl_T2"] = loss, (np.exp(warm_p) - np.exp(warm_t)) / 2

    def guided(eta: float) -> np.ndarray:
        return np.exp(_log_softmax((1 - eta) * row.log_p + eta * log_t))

    for eta in (0.0, 0.3, 0.5, 1.0):
        target = p_y * row.delta + (1 - p_y) * guided(eta)
        pairs[f"target_eta{eta:g}"] = row.cross_entropy(target), row.p - target
    u = guided(0.5)
    target = 0.5 * row.delta + 0.5 * u
    pairs["target_eta0.5_gamma0.5"] = row.cross_entropy(target), row.p - target
    # Wrong by design: without stop-gradient, through p_y and u as well.
    loss, detached = pairs["target_eta0.5"]
    mean = (u * row.log_p).sum(-1)
    by_gamma = (row.p_y * (row.log_p_y - mean))[:, None] * row.pull
    by_prior = -0.5 * (1 - p_y) * u * (row.log_p - mean[:, None])
    pairs["target_eta0.5_nodetach"] = loss, detached + by_gamma + by_prior
    return pairs


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _numbers(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(text.split(), np.float64).reshape(shape)


_LOGITS = """
    2.203125 0.18359375 -1.3046875 -0.73046875 0.357421875 1.109375 -2.828125
    1.109375 -1.8125 -2.546875 1.703125 0.032470703125 0.921875 1.2109375
    3.296875 2.015625 -2.984375 0.0927734375 1.0546875 4.84375 -0.40625
    2.375 -2.125 -1.9609375 -3.34375 4.15625 -0.5390625 0.765625
    -0.92578125 1.3828125 0.84765625 1.0546875 -1.9140625 -0.609375 0.48046875
    -0.224609375 1.7578125 -0.9765625 -0.5234375 1.859375 2.828125 -1.359375
    -1.203125 -1.0625 1.8125 0.57421875 2.265625 -2.125 -1.234375
    0.5390625 0.66796875 1.390625 0.224609375 1.140625 -1.515625 -3.328125
"""
_REFERENCE = """
    2.296875 0.037841796875 -1.9765625 -0.65625 0.7421875 1.0546875 -2.953125
    1.0859375 -1.7109375 -2.375 2.46875 -0.419921875 1.2890625 0.53125
    3.640625 1.859375 -2.875 0.73046875 1.578125 5.71875 -0.58984375
    2.875 -1.9296875 -1.6484375 -3.5625 4.78125 -0.625 0.609375
    -0.04150390625 1.5625 0.53125 1.609375 -1.90625 -0.2255859375 0.375
    -0.1337890625 1.859375 -0.98828125 -0.279296875 1.59375 2.859375 -1.375
    -0.76953125 -1.0234375 2.40625 0.8125 1.734375 -1.8828125 -1.265625
    0.984375 1.1875 1.53125 0.0004558563232421875 1.1328125 -1.109375 -3.34375
"""
_TEACHER = """
    1.0625 0.3203125 2.625 -1.546875 0.64453125 -0.671875 0.265625
    -0.384765625 4.125 -1.21875 2.8125 0.4765625 0.57421875 0.7265625
    2.484375 1.0234375 0.58203125 -2.875 -1.2421875 1.15625 -1.1640625
    0.7734375 -2.6875 -1.2109375 -4.4375 7.25 0.40234375 0.75390625
    1.1015625 -0.69140625 0.12890625 3.890625 0.7421875 -0.6171875 1.375
    -2.34375 -0.109375 0.58203125 1.484375 1.5078125 4.65625 0.244140625
    -2.75 -1.8515625 2.3125 -0.3515625 3.328125 -1.5625 0.376953125
    -1.578125 -0.279296875 -0.490234375 -0.408203125 -1.3125 -2.734375 0.94921875
"""
# log p_y − log r, with log r = 0, 0.1, 0.24, 0.26, −0.5, 1, −25, 25.
_OLD = """
    -0.5395812692974229
    -4.664168135003294
    -4.298281546256802
    -2.236719657635338
    -1.1285097081644133
    -2.681255674830733
    23.889611249822465
    -26.843102496793257
"""
# log π_ref(y).
_REFERENCE_LABEL = """
    -0.5163004567289421
    -4.756941805376224
    -4.298467690431308
    -2.064634710016398
    -2.165570593736669
    -1.5761805862483198
    -0.6027942633961902
    -1.5238026569772098
"""
# log q(y) of a policy that is neither the model nor the reference.
_Q = """
    -0.5029578954117584
    -4.422850182195428
    -4.70002689600282
    -1.6363598834567707
    -1.6884315865476744
    -2.1131446952545425
    -1.339028688210623
    -1.452039580381947
"""


if __name__ == "__main__":
    np.savez(PATH, **golden())
