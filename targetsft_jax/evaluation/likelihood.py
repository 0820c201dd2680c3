"""Log-probabilities of the options of multiple-choice problems, and their verdicts.

    acc        argmax_o log p(o | prompt)
    acc_norm   argmax_o log p(o | prompt) / characters of o
    acc_bytes  argmax_o log p(o | prompt) / bytes of o

These are the metrics of lm-evaluation-harness. Lengths are those of the option alone,
without the space before it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from targetsft_jax.data.row_error import RowError
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.generation.replicas import shards_of
from targetsft_jax.loss import label_logprob
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.padding import padded_length
from targetsft_jax.parallel import preemption
from targetsft_jax.parallel.processes import to_host

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCORES = 2**27
"""Largest number of attention scores of a layer: 512 MiB in float32."""

_MOST_ROWS = 64

Tokens = Sequence[int]


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities of the options of one problem.

    Attributes:
        log_likelihoods: log p(option | prompt), in nats, in the options' order.
        characters: characters of each option's text.
        bytes: its bytes in UTF-8.
    """

    log_likelihoods: list[float]
    characters: list[int]
    bytes: list[int]

    def choices(self) -> dict[str, int]:
        """Index of the option that each metric chooses."""
        scores = np.asarray(self.log_likelihoods)
        lengths = {
            "acc": 1,
            "acc_norm": np.asarray(self.characters),
            "acc_bytes": np.asarray(self.bytes),
        }
        return {name: int(np.argmax(scores / x)) for name, x in lengths.items()}

    def grade(self, gold: str, letters: Sequence[str]) -> Grade:
        """Verdict of acc: the most probable option is the gold one."""
        letter = letters[self.choices()["acc"]]
        return Grade(letter == gold, letter, "log-likelihood")


def likelihood(values: Sequence[float], texts: Sequence[str]) -> Likelihood:
    """Log-probabilities with the lengths of the options' texts."""
    characters = [len(text) for text in texts]
    sizes = [len(text.encode()) for text in texts]
    return Likelihood([float(value) for value in values], characters, sizes)


def plain_pair(
    context: str, option: str, tokenizer: "PreTrainedTokenizerBase", origin: str
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of an option after it, by lm-evaluation-harness' rule.

    White space at the end of the context counts to the option, and the option has the
    tokens of both texts together behind those of the context.

    Raises:
        RowError: the option has no token of its own.
    """
    text = context.rstrip()
    rest = f"{context[len(text) :]} {option}"

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, verbose=False)["input_ids"])

    before = ids(text)
    after = ids(text + rest)[len(before) :]
    if not after:
        raise RowError(origin, f"the option {option[:100]!r} has no token of its own")
    return before, after


def log_likelihoods(
    config: DecoderConfig,
    params: dict,
    pairs: Sequence[tuple[Tokens, Tokens]],
    *,
    vocab_size: int | None = None,
    dtype: DTypeLike = jnp.float32,
    row_sharding: NamedSharding | None = None,
) -> np.ndarray:
    """Sum of the log-probabilities of each pair's second tokens after its first.

    Pairs of one padded length are scored together, so that few programs are compiled.

    Args:
        config: the decoder.
        params: its parameters.
        pairs: (context, continuation) as token ids, neither empty.
        vocab_size: ids ≥ vocab_size have no probability; None: all have.
        dtype: dtype of the forward passes.
        row_sharding: sharding of the rows of a batch; None on one device.

    Returns:
        [N] float64, in the order of the pairs.

    Raises:
        ValueError: an empty context or continuation, or more tokens than the model has
            positions.
    """
    buckets: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        length = padded_length(_checked_length(config, pair))
        buckets.setdefault(length, []).append(number)
    sums = np.zeros(len(pairs))
    for length, members in sorted(buckets.items()):
        most = max(1, min(_MOST_ROWS, _SCORES // (config.num_heads * length**2)))
        rows = min(most, 1 << (len(members) - 1).bit_length())
        shards = shards_of(row_sharding)
        rows = -(-rows // shards) * shards
        for first in range(0, len(members), rows):
            preemption.check()
            chosen = members[first : first + rows]
            batch = _batch([pairs[n] for n in chosen], (rows, length))
            if row_sharding is not None:
                batch = jax.device_put(batch, row_sharding)
            values = to_host(_score(config, vocab_size, dtype, params, *batch))
            sums[chosen] = values.astype(np.float64).sum(axis=1)[: len(chosen)]
    return sums


def _checked_length(config: DecoderConfig, pair: tuple[Tokens, Tokens]) -> int:
    context, continuation = pair
    if not context or not continuation:
        raise ValueError("a context or continuation is empty; expected token ids")
    length = len(context) + len(continuation)
    if length > config.context_length:
        raise ValueError(
            f"a prompt and its option have {length:,} tokens, and the model has "
            f"{config.context_length:,} positions; leave the problem out, or lower "
            "few_shot"
        )
    return length


def _batch(
    pairs: Sequence[tuple[Tokens, Tokens]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, segment ids and the mask of the scored tokens, [rows, length] each."""
    tokens, is_real = np.zeros((2, *shape), np.int32)
    mask = np.zeros(shape, bool)
    for row, (context, continuation) in enumerate(pairs):
        size = len(context) + len(continuation)
        tokens[row, :size], is_real[row, :size] = [*context, *continuation], 1
        mask[row, len(context) - 1 : size - 1] = True
    return tokens, is_real, mask


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    config: DecoderConfig,
    vocab_size: int | None,
    dtype: Any,
    params: dict,
    tokens: jax.Array,
    is_real: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """log p of the next token [N, L] f32 where the mask is true, else 0."""
    hidden = decoder.apply(config, params, tokens, segment_ids=is_real, dtype=dtype)
    labels = jnp.where(mask, jnp.roll(tokens, -1, axis=1), 0)
    return label_logprob(
        hidden,
        decoder.head(params),
        labels,
        mask=mask,
        vocab_size=vocab_size,
        logit_cap=config.final_logit_softcap,
    )
