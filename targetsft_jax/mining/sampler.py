"""Greedy completions, and the most probable alternatives to the tokens of an answer."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.replicas import shards_of
from targetsft_jax.generation.rows import Completion
from targetsft_jax.models.chunked_logits import head_logits
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.models.padding import padded_length
from targetsft_jax.models.unstacked import Weights, decoding_weights
from targetsft_jax.parallel import preemption
from targetsft_jax.parallel.processes import to_host

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Alternatives:
    """Alternatives to the T tokens of an answer.

    Attributes:
        tokens: [T, ranks] int32.
        probabilities: [T, ranks] f32, under the model, behind the answer's own tokens.
    """

    tokens: np.ndarray
    probabilities: np.ndarray


class Sampler(Protocol):
    """Greedy completions and alternatives of one model."""

    @property
    def stop_ids(self) -> Sequence[int]:
        """Tokens that end an answer."""

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[Completion]:
        """Complete each prompt greedily."""

    def alternatives(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        ranks: Sequence[int],
    ) -> list[Alternatives]:
        """Rank the other tokens at each position of each answer."""


@dataclass(frozen=True)
class ModelSampler:
    """`Sampler` of a model on a mesh.

    Batches are filled with copies up to a power of two or `batch_size`, so that few
    programs are compiled and results do not depend on other sizes.

    Attributes:
        config, params: the decoder.
        tokenizer: its tokenizer, with the chat template.
        batch_size: sequences at a time.
        dtype: compute dtype.
        row_sharding: as in `generate`.
    """

    config: DecoderConfig
    params: dict[str, Any]
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int
    dtype: Any = jnp.float32
    row_sharding: NamedSharding | None = None

    @functools.cached_property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return stop_tokens(self.tokenizer)

    @functools.cached_property
    def _weights(self) -> Weights:
        return decoding_weights(self.params, self.dtype)

    @property
    def vocab_size(self) -> int:
        """Number of tokens that are sampled."""
        return min(len(self.tokenizer), self.config.vocab_size)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[Completion]:
        """Complete each prompt greedily, with at most `max_new_tokens` tokens."""
        completions: list[Completion | None] = [None] * len(prompts)
        for numbers in self._batches([len(prompt) for prompt in prompts]):
            results = generate(
                self.config,
                self._weights,
                [prompts[number] for number in numbers],
                max_new_tokens=max_new_tokens,
                temperature=0.0,
                stop_ids=self.stop_ids,
                key=jax.random.key(0),
                vocab_size=self.vocab_size,
                dtype=self.dtype,
                batch_size=len(numbers),
                row_sharding=self.row_sharding,
            )
            for number, [completion] in zip(numbers, results):
                completions[number] = completion
        return [completion for completion in completions if completion is not None]

    def alternatives(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        ranks: Sequence[int],
    ) -> list[Alternatives]:
        """Rank the other tokens at each position of each answer, in one forward pass.

        Args:
            prompts: tokens of the prompts.
            answers: tokens of the answers.
            ranks: 2 for the most probable token other than the answer's, and so on.
        """
        sequences = [[*prompt, *answer] for prompt, answer in zip(prompts, answers)]
        columns = [rank - 2 for rank in ranks]
        ranked: list[Alternatives | None] = [None] * len(sequences)
        for numbers in self._batches([len(sequence) for sequence in sequences]):
            preemption.check()
            length = padded_length(len(sequences[numbers[0]]))
            tokens = np.zeros((len(numbers), length), np.int32)
            is_real = np.zeros((len(numbers), length), np.int32)
            for row, number in enumerate(numbers):
                tokens[row, : len(sequences[number])] = sequences[number]
                is_real[row, : len(sequences[number])] = 1
            if self.row_sharding is not None:
                tokens, is_real = jax.device_put((tokens, is_real), self.row_sharding)
            best, probabilities = to_host(
                _others(
                    self.config,
                    self.vocab_size,
                    max(ranks) - 1,
                    jnp.dtype(self.dtype),
                    self.params,
                    tokens,
                    is_real,
                )
            )
            for row, number in enumerate(numbers):
                # Position i predicts token i + 1.
                start = len(prompts[number]) - 1
                rows = slice(start, start + len(answers[number]))
                ranked[number] = Alternatives(
                    best[row, rows][:, columns], probabilities[row, rows][:, columns]
                )
        return [alternatives for alternatives in ranked if alternatives is not None]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Numbers of sequences of one padded length, filled up by the last of them."""
        groups: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            groups.setdefault(padded_length(length), []).append(number)
        shards = shards_of(self.row_sharding)
        batches = []
        for _, members in sorted(groups.items()):
            for first in range(0, len(members), self.batch_size):
                numbers = members[first : first + self.batch_size]
                size = min(self.batch_size, 1 << (len(numbers) - 1).bit_length())
                size = -(-size // shards) * shards
                batches.append(numbers + numbers[-1:] * (size - len(numbers)))
        return batches


_POSITIONS = 64
"""Positions whose logits are in memory at a time."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _others(
    config: DecoderConfig,
    vocab_size: int,
    count: int,
    dtype: Any,
    params: dict[str, Any],
    tokens: jax.Array,
    is_real: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Most probable tokens other than the next token, [B, L, count] int32 and f32."""
    hidden = apply(config, params, tokens, segment_ids=is_real, dtype=dtype)
    matrix = head(params)[:vocab_size].astype(dtype)
    labels = jnp.roll(tokens, -1, axis=1)

    def block(piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, label = piece
        logits = head_logits(config, states, matrix)
        probabilities = jax.nn.softmax(logits, axis=-1)
        is_label = jnp.arange(vocab_size) == label[:, None]
        _, best = jax.lax.top_k(jnp.where(is_label, -jnp.inf, logits), count)
        return best, jnp.take_along_axis(probabilities, best, axis=-1)

    blocks = (
        hidden.reshape(-1, _POSITIONS, hidden.shape[-1]),
        labels.reshape(-1, _POSITIONS),
    )
    best, probabilities = jax.lax.map(block, blocks)
    shape = (*tokens.shape, count)
    return best.reshape(shape), probabilities.reshape(shape)
