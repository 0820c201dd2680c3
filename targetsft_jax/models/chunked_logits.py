"""Logits of one text in chunks of tokens, without a [tokens, V] array on a device.

For inspection and scoring. Training computes its logits inside the fused loss, and
generation those of the last token only.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.models.layers import soft_cap
from targetsft_jax.models.padding import padded_length

CHUNK = 256
"""Tokens per chunk: 256 · 151,936 float32 logits are 148 MiB."""


def logits_in_chunks(
    config: DecoderConfig,
    params: dict,
    tokens: Sequence[int] | np.ndarray,
    *,
    vocab_size: int | None = None,
    dtype: DTypeLike = jnp.float32,
    chunk: int = CHUNK,
    padded: bool = False,
    at: np.ndarray | None = None,
) -> Iterator[jax.Array | np.ndarray]:
    """Yield the logits of a text from one forward pass, `chunk` tokens at a time.

    The text is padded to a power of two, so that few programs are compiled.

    Args:
        config: the decoder.
        params: the tree of `init_params`, on one device or on a mesh.
        tokens: [L] int, one segment.
        vocab_size: number of logits; None for `config.vocab_size`. Rows of the head
            past the tokenizer's vocabulary are untrained.
        dtype: dtype of the forward pass and of the head.
        chunk: tokens per chunk.
        padded: also yield the padding behind the text, so that chunks of all texts have
            one of few shapes, for consumers under `jax.jit`.
        at: [M] int, positions whose logits are yielded, in this order; None: all.

    Yields:
        [n, vocab_size] f32 under the config's soft cap, n ≤ chunk; row i of all of them
        together predicts token i + 1, or the one after position `at[i]`. Rows of
        padding are finite and meaningless.

    Raises:
        ValueError: no tokens, a token outside the vocabulary, or a chunk or vocabulary
            size out of range.
    """
    size = config.vocab_size if vocab_size is None else vocab_size
    ids = _checked(config, tokens, size, chunk)
    count = len(ids) if at is None else len(at)
    rows = min(chunk, padded_length(count))
    length = -(-padded_length(len(ids)) // rows) * rows
    row, is_real = np.zeros((2, 1, length), np.int32)
    row[0, : len(ids)], is_real[0, : len(ids)] = ids, 1
    hidden = _hidden(config, jnp.dtype(dtype), params, row, is_real)
    if at is not None:
        hidden = hidden[np.pad(at, (0, -count % rows))]
    for start in range(0, count, rows):
        part = _chunk(config, size, rows, hidden, head(params), np.int32(start))
        left = count - start
        # On the host: a slice on the device is a program for each length.
        yield part if padded or left >= rows else np.asarray(part)[:left]


def head_logits(config: DecoderConfig, hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Logits [..., V] f32 of hidden states [..., D], under the config's soft cap.

    Args:
        config: the decoder.
        hidden: [..., D].
        head: [V, D]; the product is in the dtype of `hidden`.
    """
    logits = jnp.einsum(
        "...d,vd->...v",
        hidden,
        head.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    return soft_cap(logits, config.final_logit_softcap)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hidden(
    config: DecoderConfig,
    dtype: jnp.dtype,
    params: dict,
    tokens: jax.Array,
    is_real: jax.Array,
) -> jax.Array:
    return apply(config, params, tokens, segment_ids=is_real, dtype=dtype)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _chunk(
    config: DecoderConfig,
    vocab_size: int,
    rows: int,
    hidden: jax.Array,
    head: jax.Array,
    start: jax.Array,
) -> jax.Array:
    states = jax.lax.dynamic_slice_in_dim(hidden, start, rows)
    return head_logits(config, states, head[:vocab_size])


def _checked(
    config: DecoderConfig,
    tokens: Sequence[int] | np.ndarray,
    vocab_size: int,
    chunk: int,
) -> np.ndarray:
    ids = np.asarray(tokens)
    if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"tokens are {ids.dtype}, of shape {ids.shape}; expected token ids [L], at "
            "least one"
        )
    outside = ids[(ids < 0) | (ids >= config.vocab_size)]
    if len(outside):
        raise ValueError(
            f"token {outside[0]} is outside of 0..{config.vocab_size - 1}, the model's "
            "vocabulary; check that the tokenizer belongs to the model"
        )
    if not 0 < vocab_size <= config.vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}; expected 1 to {config.vocab_size}, the rows "
            "of the head"
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected 1 or more tokens")
    return ids
