"""The list that all tests run over: every method, its variants, and rows to break them.

A method takes part by being registered: without an entry here it is tested with its
defaults, and its inputs are made by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax.targets import METHODS, objective, target

OWN_GOLDEN = Path(__file__).resolve().parents[1] / "targets" / "golden" / "v7_n8.npz"

# Hyper-parameters beside the defaults; {} is always tested.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "alpha": [{"alpha": a} for a in (-0.5, 0.0, 1e-8, 0.1, 1.0, 2.0, 8.0)],
    "profit": [{"tau": 0.5}],
    "eaft": [
        {"entropy_norm": 3.0},
        {"entropy_norm": 3.0, "power": 2.0},
        {"top_k": 3, "power": 0.5},
    ],
    "label_smoothing": [{"smoothing": 0.0}],
    "kl": [{"kl_weight": 1.0}, {"kl_weight": 0.0}],
    "asft": [{"kl_weight": 1.0}],
    "psft": [{"clip_epsilon": 0.0}],
    "gem": [{"beta": 1.0}, {"variant": "logsigmoid"}],
    "target_sft": [
        {"eta": 0.0},
        {"eta": 0.3},
        {"eta": 1.0},
        {"gamma": 0.5},
        {"gamma": 1.0},
        {"gamma": 0.0},
    ],
    "custom": [
        {"gamma": {"entropy": 4}, "residual": {"guided": 0.3}},
        {"gamma": {"power": -0.5}, "residual": {"tempered": 0.5}},
        {"gamma": {"threshold": 0.2}, "residual": "uniform"},
        {"gamma": 0.7, "residual": {"guided_reference": 1.0}},
        {"gamma": {"power": 0.0}, "residual": "teacher"},
    ],
}


@dataclass(frozen=True)
class Case:
    """A method with hyper-parameters."""

    name: str
    hyper: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.hyper.items())])

    def __hash__(self) -> int:
        return hash(str(self))


CASES = [
    Case(name, hyper) for name in METHODS for hyper in ({}, *VARIANTS.get(name, []))
]

# The names of the golden vectors as methods; `trajectory_weight` is added for iw.
GOLDEN: dict[str, Case] = {
    "sft": Case("sft"),
    "dft": Case("dft"),
    "cft": Case("cft"),
    "psft": Case("psft"),
    "kd_ce": Case("kd"),
    "kdh_0.5": Case("kd_h"),
    "ls_0.1": Case("label_smoothing"),
    "kl_0.05": Case("kl"),
    "kl_1": Case("kl", {"kl_weight": 1.0}),
    "asft_0.05": Case("asft"),
    "asft_1": Case("asft", {"kl_weight": 1.0}),
    "profit_0.1": Case("profit"),
    "profit_0.5": Case("profit", {"tau": 0.5}),
    "eaft_logk": Case("eaft"),
    "eaft_3": Case("eaft", {"entropy_norm": 3.0}),
    "eaft_3_a2": Case("eaft", {"entropy_norm": 3.0, "power": 2.0}),
    "gem_0.7_linear": Case("gem"),
    "gem_1_linear": Case("gem", {"beta": 1.0}),
    "gem_0.7_logsigmoid": Case("gem", {"variant": "logsigmoid"}),
    "alpha_-0.5": Case("alpha", {"alpha": -0.5}),
    "alpha_0": Case("alpha", {"alpha": 0.0}),
    "alpha_1e-08": Case("alpha", {"alpha": 1e-8}),
    "alpha_0.1": Case("alpha", {"alpha": 0.1}),
    "alpha_0.5": Case("alpha"),
    "alpha_2": Case("alpha", {"alpha": 2.0}),
    "alpha_8": Case("alpha", {"alpha": 8.0}),
    "target_eta0": Case("target_sft", {"eta": 0.0}),
    "target_eta0.3": Case("target_sft", {"eta": 0.3}),
    "target_eta0.5": Case("target_sft"),
    "target_eta1": Case("target_sft", {"eta": 1.0}),
    "target_eta0.5_gamma0.5": Case("target_sft", {"gamma": 0.5}),
    "iw_mean_q": Case("iw_sft"),
    "iw_sum_q_clip16": Case("iw_sft"),
    "iw_token_self": Case("iw_sft"),
    "iw_mean_self": Case("iw_sft"),
}
# golden name -> how its weights come from q, reference and segments
TRAJECTORY = {
    "iw_mean_q": {"mode": "mean"},
    "iw_sum_q_clip16": {"mode": "sum"},
    "iw_token_self": {"mode": "token", "clip": (0.2, 1.8)},
    "iw_mean_self": {"mode": "mean"},
}

Tile = dict[str, np.ndarray]


def golden_tile(path: Path) -> tuple[Tile, dict[str, np.ndarray]]:
    """A golden file's inputs under this package's names, and all of its arrays."""
    data = dict(np.load(path))
    tile = {
        "logits": data["logits"],
        "labels": data["labels"],
        "teacher_logits": data["teacher_logits"],
        "reference_logits": data["ref_logits"],
        "old_logprob": data["old_logp"],
        "critical_mask": data["critical_mask"],
        "trajectory_weight": np.linspace(0, 3, len(data["labels"])),
    }
    return tile, data


def hard_rows() -> Iterator[tuple[str, Any, int, Any, Any, float]]:
    """(name, student, label, teacher, reference, old log-prob) over seven tokens."""
    inf = np.inf
    plain = np.array([0.5, -1.25, 2.0, 0.0, -0.5, 1.0, -3.0])
    other = np.array([1.0, 0.25, -2.0, 0.5, 3.0, -1.0, 0.0])
    steps = np.array([1.0, -1.0, 1.0, -1.0, 0.5, 0.0, -0.25])
    padded = np.array([0, 0, 0, 0, 0, -inf, -inf])
    low = np.array([0.0, 0, 0, -inf, -inf, -inf, -inf])
    high = np.array([-inf, -inf, -inf, 0.0, 0, 0, 0])
    only = np.array([0.0, *[-inf] * 6])
    for size in (50, 1e4):
        yield f"±{size:g}, label up", steps * size, 0, -steps * size, other, -0.1
        yield f"±{size:g}, label down", steps * size, 1, steps * size, other, -90.0
    yield "padding in the student", plain + padded, 2, other, other, -1.0
    yield "padding in the teacher", plain, 2, other + padded, other + padded, -1.0
    yield "padding in both", plain + padded, 2, other + padded, other + padded, -1.0
    yield "label on student's padding", plain + padded, 5, other, other, -1.0
    yield "label on teacher's padding", plain, 5, other + padded, other + padded, -1.0
    yield "label on both", plain + padded, 6, other + padded, other + padded, -inf
    yield "disjoint, label here", plain + low, 1, other + high, other + high, -1.0
    yield "disjoint, label there", plain + low, 4, other + high, other + high, -inf
    yield "one token, the label", only, 0, only, only, 0.0
    yield "one token, not the label", only, 3, only[::-1], only[::-1], -1.0
    for log_prob in (30, 80, 104, 700):
        lift = np.where(np.arange(7) == 3, -float(log_prob), plain / 8)
        yield f"log p = -{log_prob}", lift, 3, other, other, -float(log_prob)
    for gap in (12, 40, 97, 700):
        lift = np.where(np.arange(7) == 3, float(gap), plain / 8)
        yield f"1 - p = e^-{gap}", lift, 3, other, lift, 0.0
        yield f"1 - p = e^-{gap}, both", lift, 3, lift, other, -1e-3
    yield "uniform", np.zeros(7), 0, np.zeros(7), np.zeros(7), -np.log(7)
    yield "ties at the top", np.repeat([1.0, 0, -1], [2, 2, 3]), 1, other, plain, -1.0
    yield "teacher = student", plain, 4, plain, plain, -1.0
    yield "offset of 3e4", plain + 3e4, 4, other - 3e4, other + 3e4, -1.0


HARD_NAMES = [row[0] for row in hard_rows()]


@lru_cache
def tile() -> Tile:
    """The repository's golden rows and, after them, the hard ones: [N, 7]."""
    golden, _ = golden_tile(OWN_GOLDEN)
    _, z, labels, teacher, reference, old = zip(*hard_rows())
    count = len(labels)
    hard = {
        "logits": np.stack(z),
        "labels": np.array(labels),
        "teacher_logits": np.stack(teacher),
        "reference_logits": np.stack(reference),
        "old_logprob": np.array(old),
        "critical_mask": np.arange(count) % 3 > 0,
        "trajectory_weight": np.arange(count) % 5 / 2.0,
    }
    return {key: np.concatenate([golden[key], hard[key]]) for key in golden}


def inputs(case: Case, source: Tile, dtype: Any) -> dict[str, Any]:
    """What a case needs from a tile, made by name where the tile does not have it."""
    method = METHODS[case.name]
    rng = np.random.default_rng(0)
    arrays = {}
    for key in method.inputs(**{**method.defaults, **case.hyper}):
        if key in source:
            value = source[key]
        else:
            shape = source["logits" if key.endswith("_logits") else "labels"].shape
            value = rng.uniform(0, 2, shape)
        dtype_here = bool if value.dtype == bool else _column(key, dtype)
        arrays[key] = jnp.asarray(value, dtype_here)
    return arrays


def _column(key: str, dtype: Any) -> Any:
    """Only logits come in bfloat16; per-token columns are never that narrow."""
    narrow = jnp.dtype(dtype) == jnp.bfloat16 and not key.endswith("_logits")
    return jnp.float32 if narrow else dtype


def run(case: Case, logits: Any, labels: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """All that the package says of a case: arrays [N] and [N, V].

    Not under jit: hundreds of small compilations would take minutes, and operations
    are compiled once for all cases. What jit changes is a test of its own.
    """
    arguments = {**arrays, **case.hyper}

    def value(logits: Any) -> Any:
        return objective(case.name, logits, labels, **arguments)

    values, pull = jax.vjp(value, logits)
    (autodiff,) = pull(jnp.ones_like(values))
    q = target(case.name, logits, labels, **arguments)
    return {
        "value": values,
        "autodiff": autodiff,
        "g": q.logit_gradient(),
        "q": q.induced(),
        "residual": q.residual(),
        "a": q.gamma,
        "strength": q.strength,
        "negative_mass": q.negative_mass(),
    }


_RESULTS: dict[Any, dict[str, np.ndarray]] = {}


def evaluate(case: Case, dtype: Any) -> dict[str, np.ndarray]:
    """`run` on `tile()` in a dtype; computed once for all properties."""
    key = (case, jnp.dtype(dtype))
    if key not in _RESULTS:
        with jax.enable_x64(key[1] == jnp.float64):
            arrays = inputs(case, tile(), dtype)
            logits = jnp.asarray(tile()["logits"], dtype)
            results = run(case, logits, tile()["labels"], arrays)
            _RESULTS[key] = jax.tree.map(np.asarray, results)
    return _RESULTS[key]


def rounding(case: Case, source: Tile, dtype: Any) -> np.ndarray:
    """[N]: the relative rounding error that a token's g may have in a dtype.

    An exponential e^x inherits the absolute rounding of x, ε·|x|, as a relative one.
    x is a logit less the row's maximum, times a method's exponent; where e^x underflows
    the error is no more than that of the smallest x which does not. Then come a sum
    over the row (pairwise: log V roundings), a division and the products of g.
    """
    wide = jnp.dtype(dtype) == jnp.float64
    info = jnp.finfo(jnp.float64 if wide else jnp.float32)
    reach = float(-np.log(float(info.tiny)))
    names = ("logits", "teacher_logits", "reference_logits")
    spans = [largest(source[name]) for name in names]
    spans.append(largest(source["old_logprob"][:, None]))
    longest = np.minimum(np.max(spans, axis=0), 2 * reach)
    hyper = {**METHODS[case.name].defaults, **case.hyper}
    exponent = max(1.0, abs(hyper.get("alpha", 1.0)), 1 / hyper.get("beta", 1.0))
    terms = 8 + np.log2(source["logits"].shape[-1])
    return float(info.eps) * (terms + exponent * longest)


def largest(x: np.ndarray) -> np.ndarray:
    """[N]: the largest finite |x| of each row, and its largest difference."""
    finite = np.isfinite(x)
    high = np.where(finite, x, -np.inf).max(-1)
    low = np.where(finite, x, np.inf).min(-1)
    size = np.maximum(high - low, np.maximum(np.abs(high), np.abs(low)))
    return np.where(finite.any(-1), size, 0)


def scale(results: dict[str, np.ndarray]) -> np.ndarray:
    """[N]: |a| + |b| + |A|, the size of the terms that cancel in g."""
    a, strength = results["a"], results["strength"]
    return np.abs(a) + np.abs(strength - a) + np.abs(strength)
