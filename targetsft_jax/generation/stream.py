"""Stream one completion token by token; few programs serve all lengths."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from targetsft_jax.generation.generate import check_memory, check_prompts, left_padded
from targetsft_jax.generation.loop import LoopPlan, token_chooser
from targetsft_jax.generation.sampling import SamplingPlan, SamplingSettings
from targetsft_jax.models.attention import Cache
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply_cached, init_cache
from targetsft_jax.models.padding import padded_length


def stream(
    config: DecoderConfig,
    params: dict,
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
    length = padded_length(len(prompt))
    slots = padded_length(length + max_new_tokens)
    plan = LoopPlan(
        samples=1,
        # Of the program, which serves all numbers of tokens.
        max_new_tokens=slots - length,
        sampling=SamplingPlan(temperature == 0, top_p < 1, min(top_k, vocab_size)),
        vocab_size=vocab_size,
        dtype=jnp.dtype(dtype),
        row_sharding=None,
    )
    check_memory(config, plan, length)
    settings = {
        "key": key,
        "temperature": np.float32(temperature),
        "top_p": np.float32(top_p),
        "first_sample": np.int32(0),
    }
    batch = left_padded([prompt], [0], length, [0])
    stops = frozenset(stop_ids)
    return _tokens(config, plan, params, batch, settings, stops, max_new_tokens)


def _tokens(
    config: DecoderConfig,
    plan: LoopPlan,
    params: dict,
    batch: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    stops: frozenset[int],
    max_new_tokens: int,
) -> Iterator[int]:
    token, cache = _first(config, plan, params, batch, settings)
    for step in range(1, max_new_tokens + 1):
        current = token
        if step < max_new_tokens:
            # Dispatched before the current token is read, so that devices do not wait.
            arguments = (params, token, cache, np.int32(step), settings)
            token, cache = _next(config, plan, *arguments)
        value = int(current[0])
        if value in stops:
            return
        yield value


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first(
    config: DecoderConfig,
    plan: LoopPlan,
    params: dict,
    batch: Mapping[str, jax.Array],
    settings: Mapping[str, Any],
) -> tuple[jax.Array, Cache]:
    """The first token [1], and the cache of the prompt."""
    length = batch["tokens"].shape[1]
    cache = init_cache(config, 1, length + plan.max_new_tokens, plan.dtype)
    hidden, cache = apply_cached(
        config,
        params,
        batch["tokens"],
        cache,
        segment_ids=batch["is_real"],
        dtype=plan.dtype,
    )
    choose = token_chooser(config, plan, params, batch["number"], settings)
    return choose(hidden[:, -1], jnp.zeros((), jnp.int32)), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _next(
    config: DecoderConfig,
    plan: LoopPlan,
    params: dict,
    token: jax.Array,
    cache: Cache,
    step: jax.Array,
    settings: Mapping[str, Any],
) -> tuple[jax.Array, Cache]:
    """The token [1] after `token`, and the cache with it."""
    hidden, cache = apply_cached(
        config, params, token[:, None], cache, dtype=plan.dtype
    )
    numbers = jnp.zeros(1, jnp.int32)
    choose = token_chooser(config, plan, params, numbers, settings)
    return choose(hidden[:, 0], step), cache
