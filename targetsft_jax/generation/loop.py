"""The jitted generation loop: one prefill per prompt, then one token per step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from targetsft_jax.generation.sampling import SamplingPlan, next_token
from targetsft_jax.models.attention import Cache
from targetsft_jax.models.chunked_logits import head_logits
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply_cached, head, init_cache

NO_TOKEN = -1
"""Fills the output after the end of a completion."""


_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, Cache]
"""Step, token [R], ended [R] bool, output [R, max_new_tokens], cache."""


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Static arguments of the compiled program.

    Attributes:
        samples: completions per prompt.
        max_new_tokens: maximum number of tokens per completion.
        sampling: strategy for the choice of a token.
        vocab_size: ids ≥ vocab_size are never sampled.
        dtype: dtype of the forward passes and the cache.
        row_sharding: its first axis is the sharding of rows; None for no constraint.
    """

    samples: int
    max_new_tokens: int
    sampling: SamplingPlan
    vocab_size: int
    dtype: jnp.dtype
    row_sharding: NamedSharding | None

    def shard_rows(self, x: jax.Array) -> jax.Array:
        """Constrain the sharding of the first axis, the rows."""
        if self.row_sharding is None:
            return x
        rows = PartitionSpec(self.row_sharding.spec[0])
        return jax.lax.with_sharding_constraint(
            x, NamedSharding(self.row_sharding.mesh, rows)
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def decode(
    config: DecoderConfig,
    plan: LoopPlan,
    params: dict,
    batch: Mapping[str, jax.Array],
    settings: Mapping[str, Any],
) -> tuple[jax.Array, jax.Array]:
    """Sample completions of one batch of left-padded prompts.

    Args:
        config: the decoder.
        plan: static settings.
        params: its parameters.
        batch: tokens [P, L] int32, is_real [P, L] int32 (0 in padding), and the number
            [P] int32 of each prompt.
        settings: key, temperature, top_p, first_sample, and stop_ids [S] int32.

    Returns:
        Tokens [P, samples, max_new_tokens] int32 with `NO_TOKEN` from the stop token
        on, and [P, samples] bool, True if a stop token ended the completion.
    """
    prompts, length = batch["tokens"].shape
    rows = prompts * plan.samples
    forward = functools.partial(apply_cached, config, params, dtype=plan.dtype)
    choose = token_chooser(config, plan, params, batch["number"], settings)
    stop_ids = settings["stop_ids"]

    def repeat(x: jax.Array) -> jax.Array:
        return plan.shard_rows(jnp.repeat(x, plan.samples, 0, total_repeat_length=rows))

    cache = init_cache(config, prompts, length + plan.max_new_tokens - 1, plan.dtype)
    hidden, cache = forward(
        plan.shard_rows(batch["tokens"]),
        cache,
        segment_ids=plan.shard_rows(batch["is_real"]),
    )
    cache = cache._replace(
        layers=jax.tree.map(repeat, cache.layers),
        segment_ids=repeat(cache.segment_ids),
    )
    ended = jnp.zeros(rows, bool)
    output = jnp.full((rows, plan.max_new_tokens), NO_TOKEN, jnp.int32)
    zero = jnp.zeros((), jnp.int32)

    def append(
        hidden: jax.Array, step: jax.Array, ended: jax.Array, output: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        token = choose(hidden, step)
        ended = ended | jnp.any(token[:, None] == stop_ids[None], axis=1)
        column = jnp.where(ended, NO_TOKEN, token)[:, None]
        return token, ended, jax.lax.dynamic_update_slice(output, column, (zero, step))

    first = append(repeat(hidden[:, -1]), zero, ended, output)

    def is_unfinished(state: _State) -> jax.Array:
        step, _, ended, _, _ = state
        return (step < plan.max_new_tokens) & ~jnp.all(ended)

    def advance(state: _State) -> _State:
        step, token, ended, output, cache = state
        # Rows that have ended continue as padding.
        segment_ids = 1 - ended.astype(jnp.int32)[:, None]
        hidden, cache = forward(token[:, None], cache, segment_ids=segment_ids)
        return (step + 1, *append(hidden[:, 0], step, ended, output), cache)

    state = jax.lax.while_loop(is_unfinished, advance, (zero + 1, *first, cache))
    _, _, ended, output, _ = state
    shape = (prompts, plan.samples)
    return output.reshape(*shape, -1), ended.reshape(shape)


def token_chooser(
    config: DecoderConfig,
    plan: LoopPlan,
    params: dict,
    numbers: jax.Array,
    settings: Mapping[str, Any],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Build the function that chooses a token per row.

    (hidden [R, D], step) -> tokens [R] int32. Keys depend on the numbers [P] of the
    prompts, the sample and the step alone.
    """
    matrix = head(params)[: plan.vocab_size].astype(plan.dtype)
    keys = _row_keys(settings["key"], numbers, settings["first_sample"], plan.samples)

    def choose(hidden: jax.Array, step: jax.Array) -> jax.Array:
        logits = head_logits(config, hidden, matrix)
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return next_token(
            logits,
            step_keys,
            plan.sampling,
            settings["temperature"],
            settings["top_p"],
        )

    return choose


def _row_keys(
    key: jax.Array, numbers: jax.Array, first_sample: jax.Array, samples: int
) -> jax.Array:
    """[P * samples] PRNG keys, from the number of the prompt and of the sample."""

    def prompt_keys(number: jax.Array) -> jax.Array:
        prompt_key = jax.random.fold_in(key, number)
        return jax.vmap(lambda sample: jax.random.fold_in(prompt_key, sample))(
            first_sample + jnp.arange(samples, dtype=jnp.int32)
        )

    return jax.vmap(prompt_keys)(numbers).reshape(
        numbers.shape[0] * samples, *key.shape
    )
