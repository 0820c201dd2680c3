"""Measure the tokens of one text: log-probabilities, and the target of a method."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.interactive.text_input import Tokens
from targetsft_jax.targets.api import resolve, target, token_columns
from targetsft_jax.targets.inputs import INPUTS, SECOND_MODELS
from targetsft_jax.targets.method import Method, is_array

Chunks = Iterator[Array | np.ndarray]
"""Logits [C, V] of consecutive positions, the last chunk padded."""

Arrays = dict[str, np.ndarray]


def measure_scores(tokens: Tokens, chunks: Chunks, top: int) -> Arrays:
    """Log-probabilities of the scored tokens.

    Args:
        tokens: a text.
        chunks: its logits, padded.
        top: most probable tokens per position.

    Returns:
        `logprob` and `entropy` [N], `top_ids` and `top_logprob` [N, top].
    """
    parts = []
    for start, logits in _starts(chunks):
        rows, labels = _rows(tokens, start, len(logits))
        parts.append(_taken(_scores(min(top, logits.shape[1]), logits, labels), rows))
    return _joined(parts)


@dataclass(frozen=True)
class Plan:
    """A method with what is constant over a text; static under jit.

    Attributes:
        method: the method.
        hyper: its complete hyper-parameters, numbers and names.
        second: name of the input that is the logits of a second model, or None.
        columns: per-token inputs and hyper-parameters, [N] each.
    """

    method: Method
    hyper: Mapping[str, Any]
    second: str | None
    columns: Mapping[str, Array]

    @classmethod
    def of(
        cls, method: str | Method, models: Sequence[str], inputs: Mapping[str, Any]
    ) -> "Plan":
        """Resolve a method, its inputs and hyper-parameters.

        Args:
            method: name or method.
            models: names of the inputs that are logits of second models, as passed.
            inputs: hyper-parameters and per-token inputs; a number stands for all
                tokens.

        Raises:
            ValueError: an unknown method or name; a missing input, with the remedy; a
                value outside its domain.
        """
        placeholders = dict.fromkeys(models, 0.0)
        try:
            method, arrays, hyper = resolve(method, {**inputs, **placeholders})
        except ValueError as error:
            raise ValueError(f"{error}{_advice(str(error))}") from None
        second = next((key for key in SECOND_MODELS if key in arrays), None)
        columns = {key: x for key, x in arrays.items() if key not in SECOND_MODELS}
        columns |= {key: x for key, x in hyper.items() if is_array(x)}
        hyper = {key: x for key, x in hyper.items() if key not in columns}
        return cls(method, hyper, second, columns)

    def checked(self, size: int) -> "Plan":
        """The plan with columns [N], each in its domain.

        Raises:
            ValueError: another number of entries, or one outside its domain.
        """
        full = {
            key: np.full(size, x) if np.ndim(x) == 0 else np.asarray(x)
            for key, x in self.columns.items()
        }
        columns = token_columns(self.method, full, (size,))
        return Plan(self.method, self.hyper, self.second, columns)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._key == other._key

    @property
    def _key(self) -> tuple[Any, ...]:
        hyper = tuple(sorted((key, repr(x)) for key, x in self.hyper.items()))
        return id(self.method), hyper, self.second, tuple(sorted(self.columns))


def measure_target(
    plan: Plan, tokens: Tokens, chunks: Chunks, second: Chunks | None, top: int
) -> Arrays:
    """The target of a method at the scored tokens.

    Args:
        plan: the method, with columns [N].
        tokens: a text.
        chunks: its logits under the student, padded.
        second: its logits under the second model that the method reads.
        top: largest entries of Q per position.

    Returns:
        `gamma`, `label_prob` (p_y), `strength`, `label_target` (Q_y) and
        `negative_mass` [N]; of the `top` largest entries of Q, `top_ids`, `top_target`
        and `top_prob` (p) [N, top].
    """
    parts = []
    others = iter(second or ())
    for start, logits in _starts(chunks):
        rows, labels = _rows(tokens, start, len(logits))
        columns = {
            key: _filled(x, rows, len(logits)) for key, x in plan.columns.items()
        }
        size = min(top, logits.shape[1])
        results = _target(plan, size, logits, next(others, None), labels, columns)
        parts.append(_taken(results, rows))
    return _joined(parts)


@functools.partial(jax.jit, static_argnums=0)
def _scores(top: int, logits: Array, labels: Array) -> dict[str, Array]:
    logprob = jax.nn.log_softmax(logits)
    values, ids = jax.lax.top_k(logprob, top)
    return {
        "logprob": jnp.take_along_axis(logprob, labels[:, None], -1)[:, 0],
        "entropy": -jnp.sum(jnp.exp(logprob) * logprob, axis=-1),
        "top_ids": ids,
        "top_logprob": values,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _target(
    plan: Plan,
    top: int,
    logits: Array,
    other: Array | None,
    labels: Array,
    columns: Mapping[str, Array],
) -> dict[str, Array]:
    models = {} if plan.second is None else {plan.second: other}
    q = target(plan.method, logits, labels, **models, **columns, **plan.hyper)
    induced, p = q.induced(), jax.nn.softmax(logits, axis=-1)
    values, ids = jax.lax.top_k(induced, top)
    return {
        "gamma": q.gamma,
        "strength": q.strength,
        "negative_mass": q.negative_mass(),
        "label_prob": jnp.take_along_axis(p, labels[:, None], -1)[:, 0],
        "label_target": jnp.take_along_axis(induced, labels[:, None], -1)[:, 0],
        "top_ids": ids,
        "top_target": values,
        "top_prob": jnp.take_along_axis(p, ids, -1),
    }


def _starts(chunks: Chunks) -> Iterator[tuple[int, Any]]:
    """Each chunk with the position of its first row."""
    start = 0
    for logits in chunks:
        yield start, logits
        start += len(logits)


@dataclass(frozen=True)
class _Rows:
    """Rows of a chunk that predict scored tokens, and the numbers of those."""

    inner: np.ndarray
    outer: np.ndarray


def _rows(tokens: Tokens, start: int, size: int) -> tuple[_Rows, np.ndarray]:
    """Scored rows of a chunk, and its labels [C], 0 elsewhere."""
    # Row i predicts token i + 1.
    inner = tokens.positions - 1 - start
    outer = np.flatnonzero((inner >= 0) & (inner < size))
    labels = np.zeros(size, np.int32)
    labels[inner[outer]] = tokens.labels[outer]
    return _Rows(inner[outer], outer), labels


def _filled(column: Array, rows: _Rows, size: int) -> np.ndarray:
    """A column [C] of a chunk; other rows have a value of its domain."""
    values = np.asarray(column)
    result = np.full(size, values[0])
    result[rows.inner] = values[rows.outer]
    return result


def _taken(results: Mapping[str, Array], rows: _Rows) -> Arrays:
    return {key: np.asarray(x)[rows.inner] for key, x in results.items()}


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _advice(message: str) -> str:
    """Remedy for missing inputs, empty for other errors."""
    if " needs " not in message:
        return ""
    missing = message.partition(" needs ")[2].split(", ")
    texts = []
    for name in missing:
        if name in SECOND_MODELS:
            role = name.removesuffix("_logits")
            texts.append(f"pass {role}=tsft.load(PATH)")
        elif name == "old_logprob":
            texts.append(f"pass {name}=OLD.logprobs(text).logprob")
        elif INPUTS[name].per == "example":
            texts.append(f"pass {name} as a number")
        else:
            texts.append(f"pass {name} as one number per token")
    return "; " + ", ".join(texts)
