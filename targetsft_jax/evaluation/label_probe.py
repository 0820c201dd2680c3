"""Label probe: p_y and accuracy of a model on clean and on corrupted training labels.

Generated examples with label noise have a known correct token at every computed
position, which separates learning the rule from memorising the wrong labels.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from targetsft_jax.data.chat import Example, encode_all
from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.record import Record
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.synthetic import add_noise, make_record
from targetsft_jax.models.chunked_logits import head_logits
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.parallel.processes import to_host

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LabelProbe = dict[str, dict[str, Any]]
"""Group of labels, clean or corrupted -> its measurements."""

BINS = 20
"""Bins of the histograms of p_y on [0, 1]."""

_ROWS = 64


@dataclasses.dataclass(frozen=True)
class ProbeExamples:
    """Training examples with the correct token at each computed position.

    Attributes:
        tokens: [N, L] int32, as trained, with label noise; 0 in padding.
        correct: [N, L] int32, without label noise.
        is_computed: [N, L] bool, tokens that label noise may replace.
        is_real: [N, L] int32, 0 in padding.
    """

    tokens: np.ndarray
    correct: np.ndarray
    is_computed: np.ndarray
    is_real: np.ndarray


def probe_examples(
    config: SyntheticConfig, n: int, tokenizer: "PreTrainedTokenizerBase"
) -> ProbeExamples:
    """Tokenize the first n training examples, as trained and without label noise.

    Args:
        config: generated problems.
        n: number of examples.
        tokenizer: with the chat template of the training.

    Raises:
        ValueError: no example has one token per computed character.
    """
    clean_config = dataclasses.replace(config, label_noise=0.0)
    rng = np.random.default_rng(0)
    noisy, clean, altered = [], [], []
    for index in range(n):
        noisy.append(make_record(config, index))
        clean.append(make_record(clean_config, index))
        altered.append(_with_response_noise(clean[-1], rng))
    examples = [
        triple
        for triple in zip(*(_encode(r, tokenizer) for r in (noisy, clean, altered)))
        if len({len(example.tokens) for example in triple}) == 1
    ]
    if not examples:
        raise ValueError(
            "the tokenizer joins computed characters into tokens, so that no example "
            "has one correct token per position; set evaluation.label_probe to 0"
        )
    length = max(len(triple[0].tokens) for triple in examples)
    shape = (len(examples), length)
    tokens, correct = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    is_computed, is_real = np.zeros(shape, bool), np.zeros(shape, np.int32)
    for row, (label, truth, other) in enumerate(examples):
        size = len(label.tokens)
        tokens[row, :size], correct[row, :size] = label.tokens, truth.tokens
        is_computed[row, :size] = truth.tokens != other.tokens
        is_real[row, :size] = 1
    return ProbeExamples(tokens, correct, is_computed, is_real)


def probe_labels(
    config: DecoderConfig,
    params: dict,
    examples: ProbeExamples,
    *,
    vocab_size: int,
    dtype: DTypeLike = jnp.float32,
) -> LabelProbe:
    """Measure a model on the computed labels of training examples.

    Args:
        config: the decoder.
        params: its parameters.
        examples: as `probe_examples` returns them.
        vocab_size: ids ≥ vocab_size have no probability.
        dtype: dtype of the forward passes.

    Returns:
        "clean" and, with label noise, "corrupted" labels: number of `tokens`, histogram
        `label_prob` [BINS] of p_y as shares, `mean_label_prob`, the `accuracy` as the
        share of tokens whose argmax is the correct token, and for corrupted labels
        `memorised`, the share whose argmax is the wrong label.
    """
    parts: list[Sequence[np.ndarray]] = []
    for first in range(0, len(examples.tokens), _ROWS):
        rows = slice(first, first + _ROWS)
        missing = _ROWS - len(examples.tokens[rows])
        # Filled up, so that one program serves all batches.
        tokens, is_real = (
            np.pad(x[rows], ((0, missing), (0, 0)))
            for x in (examples.tokens, examples.is_real)
        )
        outputs = to_host(_predict(config, vocab_size, dtype, params, tokens, is_real))
        parts.append([x[: _ROWS - missing] for x in outputs])
    prob, best = (np.concatenate(x) for x in zip(*parts))
    label, correct = examples.tokens[:, 1:], examples.correct[:, 1:]
    computed = examples.is_computed[:, 1:]
    groups = {
        "clean": computed & (label == correct),
        "corrupted": computed & (label != correct),
    }
    result: LabelProbe = {}
    for name, group in groups.items():
        if not group.any():
            continue
        counts, _ = np.histogram(prob[group], bins=BINS, range=(0, 1))
        result[name] = {
            "tokens": int(group.sum()),
            "label_prob": (counts / counts.sum()).tolist(),
            "mean_label_prob": float(prob[group].mean()),
            "accuracy": float((best == correct)[group].mean()),
        }
        if name == "corrupted":
            result[name]["memorised"] = float((best == label)[group].mean())
    return result


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _predict(
    config: DecoderConfig,
    vocab_size: int,
    dtype: DTypeLike,
    params: dict,
    tokens: jax.Array,
    is_real: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Probability of each next token [N, L − 1] f32, and the argmax [N, L − 1]."""
    hidden = apply(config, params, tokens, segment_ids=is_real, dtype=dtype)
    logits = head_logits(config, hidden[:, :-1], head(params)[:vocab_size])
    logprob = jax.nn.log_softmax(logits)
    label = jnp.take_along_axis(logprob, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.exp(label), jnp.argmax(logits, axis=-1)


def _with_response_noise(record: Record, rng: np.random.Generator) -> Record:
    """Record with another character at every computed position."""
    *turns, last = record.messages
    noisy = add_noise(last["content"], 1.0, rng)
    return dataclasses.replace(record, messages=[*turns, last | {"content": noisy}])


def _encode(
    records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase"
) -> list[Example]:
    def refuse(error: RowError) -> None:
        raise error

    return list(encode_all(records, tokenizer, refuse))
