"""Small problems for tests of the loss: hidden states, heads and columns."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax import fused_loss
from targetsft_jax.targets.inputs import column_names

from . import method_cases
from .quick import quicker

B, L, D, D_OTHER, V = 8, 6, 16, 24, 53  # 48 tokens; 53 is prime
GARBAGE = -100
MASKS = ("all", "none", "prefix", "holes")


def weights(mask: str, dtype: Any = np.float32) -> np.ndarray:
    """[B, L]: uneven weights, 0 outside the mask."""
    rng = np.random.default_rng(3)
    uneven = rng.uniform(0.2, 1.0, (B, L)) / (B * L)
    masks = {
        "all": np.ones((B, L)),
        "none": np.zeros((B, L)),
        "prefix": np.arange(L) < np.arange(1, B + 1)[:, None] // 2,
        "holes": rng.uniform(size=(B, L)) > 0.3,
    }[mask]
    return (uneven * masks).astype(dtype)


def problem(
    dtype: Any, mask: str = "holes", extra_rows: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, Any]]:
    """(hidden, head, labels, arguments); labels are arbitrary where the weight is 0."""
    rng = np.random.default_rng(4)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    hidden, head = normal(B, L, D), normal(V, D) / 2
    other = (normal(B, L, D_OTHER), normal(V + extra_rows, D_OTHER) / 2)
    w = weights(mask, np.float64 if dtype == "float64" else np.float32)
    labels = np.where(w == 0, GARBAGE, rng.integers(0, V, (B, L)))
    columns = {
        "trajectory_weight": rng.uniform(0, 2, (B, L)).astype(w.dtype),
        "critical_mask": rng.uniform(size=(B, L)) > 0.5,
        "old_logprob": -rng.exponential(5, (B, L)).astype(w.dtype),
    }
    for key in column_names():
        if key not in columns:
            columns[key] = rng.uniform(0, 1, (B, L)).astype(w.dtype)
    arguments = {"weights": w, "teacher": other, "reference": other, **columns}
    return hidden, head, jnp.asarray(labels), arguments


def cut(arguments: dict[str, Any], rows: int) -> dict[str, Any]:
    """The problem with the second models' heads truncated to a number of rows."""
    models = {
        key: (arguments[key][0], arguments[key][1][:rows])
        for key in ("teacher", "reference")
    }
    return {**arguments, **models}


@lru_cache
def compiled(case: method_cases.Case, chunk: int = 7, real: int | None = None) -> Any:
    """(hidden, head, labels, arguments) -> (loss, metrics), (∂hidden, ∂head).

    One jit for all tests, with `quicker`, since compilation dominates their time.
    """

    def loss(hidden: Any, head: Any, labels: Any, arguments: Any) -> Any:
        options = {"chunk_size": chunk, "vocab_size": real, **case.hyper}
        return fused_loss(case.name, hidden, head, labels, **arguments, **options)

    gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(gradients, compiler_options=quicker())
