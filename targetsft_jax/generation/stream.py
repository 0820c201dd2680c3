"""Stream one completion token by token; few programs serve all lengths."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from targetsft_jax.generation.generate import (
    check_memory,
    check_prompts,
    loop_settings,
)
from targetsft_jax.generation.loop import LoopPlan, advance, no_rows, prefill, start
from targetsft_jax.generation.rows import Work, left_padded
from targetsft_jax.generation.sampling import SamplingPlan, SamplingSettings
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.padding import padded_length
from targetsft_jax.models.unstacked import Weights, decoding_weights


def stream(
    config: DecoderConfig,
    params: "dict[str, Any] | Weights",
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop_ids: Sequence[int],
    key: jax.Array,
    vocab_size: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Iterator[int]:
    """Yield the tokens of one completion as they are sampled, without the stop token.

    They are those of `generate` with the same key, up to rounding. The cache is padded
    to a power of two like the prompt: a conversation that grows needs a new program
    only when one of them doubles.

    Args:
        config, params, temperature, top_p, top_k, stop_ids, key, vocab_size, dtype: as
            in `generate`.
        prompt: token ids, at least one.
        max_new_tokens: maximum number of tokens, the stop token included.

    Raises:
        ValueError: as `generate`; before the first token.
    """
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    SamplingSettings(
        samples=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
    ).check()
    check_prompts(config, [prompt], vocab_size, max_new_tokens)
    plan = LoopPlan(
        sampling=SamplingPlan(temperature == 0, top_p < 1, min(top_k, vocab_size)),
        vocab_size=vocab_size,
        dtype=jnp.dtype(dtype),
        row_sharding=None,
    )
    settings = loop_settings(key, temperature, top_p, stop_ids, max_new_tokens)
    # The programs do not end a row: they are those of any stop tokens.
    settings["stop_ids"] = np.asarray([-1], np.int32)
    length = padded_length(len(prompt))
    slots = padded_length(length + max_new_tokens)
    work = Work(config, plan, [prompt], [0], 1, 0, slots - length, settings)
    check_memory(work, rows=1)
    return _tokens(
        work,
        decoding_weights(params, dtype),
        slots,
        frozenset(stop_ids),
        max_new_tokens,
    )


def _tokens(
    work: Work,
    weights: Weights,
    slots: int,
    stops: frozenset[int],
    max_new_tokens: int,
) -> Iterator[int]:
    static = (work.config, work.plan)
    [prompt] = work.prompts
    prompts = prefill(
        *static, weights, *left_padded([prompt], padded_length(len(prompt)))
    )
    zero = np.zeros(1, np.int32)
    places = {"prompt": zero, "number": zero, "sample": zero}
    rows = no_rows(*static, 1, slots)
    rows = start(*static, weights, rows, prompts, places, work.settings)
    until, steps = np.int32(0), np.int32(1)
    for count in range(1, max_new_tokens + 1):
        # Copied, since the next program reuses the memory of the rows.
        token = jnp.copy(rows.token)
        if count < max_new_tokens:
            # Dispatched before the token is read, so that devices do not wait.
            rows = advance(*static, weights, rows, until, steps, work.settings)
        value = int(token[0])
        if value in stops:
            return
        yield value
