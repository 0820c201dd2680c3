"""Measure tokens: statistics of all models and weights of all methods, block by block.

Logits come one chunk of positions at a time; of a chunk, blocks of trained positions
go through one compiled program. Weights a and b are `tsft.target`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.inspection.method_inputs import (
    BEFORE,
    COLUMN,
    STUDENT,
    TEACHER,
    PageMethod,
)
from targetsft_jax.inspection.trajectories import needs_trajectory
from targetsft_jax.targets.api import target
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Rows, zero_safe_product

TOP = 8
"""Most probable tokens of each model among the candidates."""
TOP_ENTROPY = 20
"""Tokens of the top entropy, the default of EAFT."""
BLOCK = 64
"""Trained positions per program: 64 · 151,936 float32 are 37 MiB."""
LOWEST = -1e4
"""Log-probability of a token without any mass: exp is 0, its products are finite."""

Arrays = dict[str, np.ndarray]


class Meter:
    """Measures blocks of trained positions.

    Args:
        methods: the methods of the page.
        eta_stops: η at which the normaliser of the guided prior is stored.
    """

    def __init__(self, methods: Sequence[PageMethod], eta_stops: Sequence[float]):
        computed = [
            method
            for method in methods
            if method.refusal is None and not needs_trajectory(method)
        ]
        # A uniform T is a constant [n, V], which the compiler would fold for seconds.
        self._uniform = [method for method in computed if method.mix == (0, 0)]
        self._methods = [method for method in computed if method.mix != (0, 0)]
        self._stops = tuple(eta_stops)
        self._block = jax.jit(self._measure)

    def blocks(
        self,
        logits: Mapping[str, Array | np.ndarray],
        positions: np.ndarray,
        labels: np.ndarray,
        columns: Mapping[str, np.ndarray],
    ) -> Iterator[Arrays]:
        """Measure the selected positions of a chunk.

        Args:
            logits: role -> [n, V] f32.
            positions: [m] rows of the logits whose label is trained.
            labels: [m] int32, the trained tokens.
            columns: per-token input -> [m] f32.

        Yields:
            Arrays of at most `BLOCK` positions, by the names of the page; candidates
            are token ids.
        """
        for start in range(0, len(positions), BLOCK):
            part = slice(start, start + BLOCK)
            count = len(positions[part])
            arguments = (positions[part], labels[part], _parts(columns, part))
            indices, *padded = jax.tree.map(
                lambda x: np.pad(x, (0, BLOCK - len(x))), arguments
            )
            # A program of its own: chunks have several lengths, and the other is large.
            tiles = {role: _rows_at(x, indices) for role, x in logits.items()}
            arrays = self._block(tiles, *padded)
            for method in self._uniform:
                q = self._target(method, tiles, *padded)
                arrays |= _weights(method, q)
            yield {name: x[:count] for name, x in jax.device_get(arrays).items()}

    def _measure(
        self,
        tiles: Mapping[str, Array],
        labels: Array,
        columns: Mapping[str, Array],
    ) -> dict[str, Array]:
        rows = Rows(tiles[STUDENT], labels, tiles.get(TEACHER))
        logs = {
            role: Rows(x, labels).log_probabilities for role, x in tiles.items()
        } | {STUDENT: rows.log_probabilities}
        candidates = _candidates(logs, labels)
        arrays = {"candidate": candidates}
        for role, log in logs.items():
            arrays[f"logprob_{role}"] = _at(log, candidates)
        arrays |= _statistics(rows, logs)
        if TEACHER in logs:
            arrays |= _disagreement(logs)
            arrays["logz_eta"] = _guided_normalisers(logs, self._stops)
        for method in self._methods:
            q = self._target(method, tiles, labels, columns)
            arrays |= _weights(method, q)
            arrays |= _alternative(method, q, logs, candidates)
        return arrays

    def _target(
        self,
        method: PageMethod,
        tiles: Mapping[str, Array],
        labels: Array,
        columns: Mapping[str, Array],
    ) -> QTarget:
        """The library's target of a method at a block."""
        inputs: dict[str, Any] = {}
        for name, source in method.sources.items():
            if source == COLUMN:
                inputs[name] = columns[name]
            elif INPUTS[name].per == "model":
                inputs[name] = tiles[source]
            elif name == "old_logprob":
                inputs[name] = self._label_logprob(tiles[source], labels)
            else:
                inputs[name] = jnp.exp(self._label_logprob(tiles[source], labels))
        return target(method.method, tiles[STUDENT], labels, **inputs, **method.hyper)

    @staticmethod
    def _label_logprob(logits: Array, labels: Array) -> Array:
        # Rounding may leave a log-probability just above 0.
        return jnp.minimum(Rows(logits, labels).log_prob, 0)


@jax.jit
def _rows_at(logits: Array, indices: Array) -> Array:
    return logits[indices]


def _parts(columns: Mapping[str, np.ndarray], part: slice) -> Arrays:
    return {name: np.asarray(x[part], np.float32) for name, x in columns.items()}


def _at(log: Array, candidates: Array) -> Array:
    """Log-probabilities [n, C] of candidates; 0 at padding."""
    values = jnp.take_along_axis(log, jnp.maximum(candidates, 0), axis=-1)
    return jnp.where(candidates < 0, 0, jnp.maximum(values, LOWEST))


def _candidates(logs: Mapping[str, Array], labels: Array) -> Array:
    """Ids [n, C]: the label, then the most probable tokens of all models by p.

    A token that several models have in common is there once; the end is −1.
    """
    size = min(TOP, logs[STUDENT].shape[-1])
    best = [jax.lax.top_k(log, size)[1] for log in logs.values()]
    ids = jnp.concatenate([labels[:, None], *best], axis=-1)
    equal = ids[:, :, None] == ids[:, None, :]
    is_repeated = jnp.tril(equal, -1).any(axis=-1)
    key = jnp.take_along_axis(logs[STUDENT], ids, axis=-1)
    key = jnp.where(is_repeated, -jnp.inf, jnp.maximum(key, LOWEST))
    order = jnp.argsort(-key.at[:, 0].set(jnp.inf), axis=-1, stable=True)
    sorted_ids = jnp.take_along_axis(jnp.where(is_repeated, -1, ids), order, axis=-1)
    return sorted_ids.astype(jnp.int32)


def _statistics(rows: Rows, logs: Mapping[str, Array]) -> dict[str, Array]:
    arrays = {
        "entropy": rows.entropy,
        "top_entropy": rows.top_entropy(TOP_ENTROPY),
        "sum_squares": rows.concentration,
    }
    if BEFORE in logs:
        arrays["entropy_before"] = _entropy(logs[BEFORE])
    return arrays


def _disagreement(logs: Mapping[str, Array]) -> dict[str, Array]:
    """KL(teacher ‖ student), and the teacher's mass on the student's top tokens."""
    student, teacher = logs[STUDENT], logs[TEACHER]
    prob = jnp.exp(teacher)
    # Not the difference of two entropies, whose rounding hides a small divergence.
    difference = teacher - jnp.maximum(student, LOWEST)
    size = min(TOP, student.shape[-1])
    support = jax.lax.top_k(student, size)[1]
    return {
        "kl_teacher": jnp.sum(zero_safe_product(prob, difference), axis=-1),
        "teacher_on_support": jnp.sum(
            jnp.take_along_axis(prob, support, axis=-1), axis=-1
        ),
        "teacher_entropy": _entropy(teacher),
    }


def _entropy(log: Array) -> Array:
    return -jnp.sum(zero_safe_product(jnp.exp(log), log), axis=-1)


def _guided_normalisers(logs: Mapping[str, Array], stops: tuple[float, ...]) -> Array:
    """log Σ p^(1−η) π_T^η [n, stops]."""

    def normaliser(eta: Array) -> Array:
        return _log_total(logs[STUDENT], logs[TEACHER], 1 - eta, eta)

    return jax.lax.map(normaliser, jnp.asarray(stops, jnp.float32)).T


def _log_total(student: Array, other: Array | None, alpha: Any, beta: Any) -> Array:
    """log Σ p^α π^β [n]."""
    scores = zero_safe_product(jnp.asarray(alpha, jnp.float32), student)
    if other is not None:
        scores += zero_safe_product(jnp.asarray(beta, jnp.float32), other)
    return jnp.maximum(jax.nn.logsumexp(scores, axis=-1), LOWEST)


def _weights(method: PageMethod, q: QTarget) -> dict[str, Array]:
    arrays = {f"a_{method.name}": q.label_weight}
    if q.alternative_weight is not None:
        arrays[f"b_{method.name}"] = q.alternative_weight
    return arrays


def _alternative(
    method: PageMethod, q: QTarget, logs: Mapping[str, Array], candidates: Array
) -> dict[str, Array]:
    """Normaliser of the alternative, or its log-probabilities at the candidates."""
    if q.alternative_weight is None or method.is_guided:
        return {}
    if q.scores is not None:
        total = jax.nn.logsumexp(q.scores, axis=-1, keepdims=True)
        log = q.scores - jnp.where(total == -jnp.inf, 0, total)
        return {scores_name(method): _at(log, candidates)}
    if not has_normaliser(method):
        return {}
    assert method.mix is not None
    other = None if method.other is None else logs[method.other]
    return {normaliser_name(method): _log_total(logs[STUDENT], other, *method.mix)}


def has_normaliser(method: PageMethod) -> bool:
    """True if T is a mix whose exponents do not already give a distribution."""
    return method.mix not in (None, (0, 0), (0, 1), (1, 0)) and not method.is_guided


def normaliser_name(method: PageMethod) -> str:
    """Array with the normaliser of a method's alternative."""
    return f"logz_{method.name}"


def scores_name(method: PageMethod) -> str:
    """Array with log T of a method at the candidates."""
    return f"logt_{method.name}"
