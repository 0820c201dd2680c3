"""Compiled parts of generation: prefill, start of completions, and steps of all rows.

A row is one completion in progress. Rows start and end at different steps, so that the
caller can replace those that have ended (see `rows`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from targetsft_jax.generation.sampling import SamplingPlan, next_token
from targetsft_jax.models import ring
from targetsft_jax.models.chunked_logits import head_logits
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply_prompts, apply_token, head
from targetsft_jax.models.ring import LayerCache
from targetsft_jax.models.unstacked import Weights


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Static arguments of the compiled programs.

    Attributes:
        sampling: strategy for the choice of a token.
        vocab_size: ids ≥ vocab_size are never sampled.
        dtype: dtype of the forward passes and the cache.
        row_sharding: its first axis is the sharding of rows; None for no constraint.
    """

    sampling: SamplingPlan
    vocab_size: int
    dtype: jnp.dtype
    row_sharding: NamedSharding | None

    def shard_rows(self, tree: Any) -> Any:
        """Constrain the sharding of the first axis of every array, the rows."""
        if self.row_sharding is None:
            return tree
        rows = PartitionSpec(self.row_sharding.spec[0])
        sharding = NamedSharding(self.row_sharding.mesh, rows)
        return jax.lax.with_sharding_constraint(tree, sharding)


class Prompts(NamedTuple):
    """Prompts after their prefill.

    Attributes:
        hidden: [P, D], of the last token.
        lengths: [P] int32, tokens without padding.
        keys, values: one per layer, [P, L, kv_heads, head_dim].
    """

    hidden: jax.Array
    lengths: jax.Array
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


class Rows(NamedTuple):
    """Completions in progress, one per row; the arrays are [R].

    Attributes:
        token: int32, the newest token, not yet in the cache.
        position: int32, number of tokens before it.
        sampled: int32, number of sampled tokens.
        number, sample: int32, identity of the prompt and of the completion.
        live: bool, False for rows that have ended or were never started.
        stopped: bool, True if a stop token ended the row.
        output: [R, S] int32, ring of sampled tokens; that of step n is in slot n mod S.
        step: [] int32, steps so far.
        caches: one per layer.
    """

    token: jax.Array
    position: jax.Array
    sampled: jax.Array
    number: jax.Array
    sample: jax.Array
    live: jax.Array
    stopped: jax.Array
    output: jax.Array
    step: jax.Array
    caches: tuple[LayerCache, ...]

    @property
    def slots(self) -> int:
        """S, the most tokens of a row, prompt included."""
        return self.output.shape[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def no_rows(config: DecoderConfig, plan: LoopPlan, rows: int, slots: int) -> Rows:
    """Rows that were never started."""
    zeros, false = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)
    return _sharded(
        plan,
        Rows(
            *(zeros,) * 5,
            *(false,) * 2,
            output=jnp.zeros((rows, slots), jnp.int32),
            step=jnp.zeros((), jnp.int32),
            caches=ring.empty_cache(config, rows, slots, plan.dtype),
        ),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def prefill(
    config: DecoderConfig,
    plan: LoopPlan,
    weights: Weights,
    tokens: jax.Array,
    is_real: jax.Array,
) -> Prompts:
    """Run the decoder over prompts.

    Args:
        config: the decoder.
        plan: static settings.
        weights: its parameters.
        tokens: [P, L] int32, padded on the left.
        is_real: [P, L] int32, 0 in padding.
    """
    hidden, keys, values = apply_prompts(
        config,
        weights.params,
        plan.shard_rows(tokens),
        segment_ids=plan.shard_rows(is_real),
        dtype=plan.dtype,
    )
    lengths = jnp.sum(is_real, axis=1, dtype=jnp.int32)
    # One array per layer, so that a further program need not copy them from a stack.
    return Prompts(hidden[:, -1], lengths, tuple(keys), tuple(values))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def start(
    config: DecoderConfig,
    plan: LoopPlan,
    weights: Weights,
    rows: Rows,
    prompts: Prompts,
    places: Mapping[str, jax.Array],
    settings: Mapping[str, Any],
) -> Rows:
    """Start completions in some rows, and sample the first token of each.

    Args:
        config: the decoder.
        plan: static settings.
        weights: its parameters.
        rows: none of the rows that start is in use any more.
        prompts: from `prefill`.
        places: arrays [R] int32: prompt, the number within `prompts`, or −1 for rows
            that continue; number and sample, the identity of the completion.
        settings: as in `advance`.
    """
    starts = places["prompt"] >= 0
    source = jnp.maximum(places["prompt"], 0)

    def renewed(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(starts.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    def layer(key: jax.Array, value: jax.Array, old: LayerCache) -> LayerCache:
        new = ring.prompt_cache(key, value, old[1].shape[2], rows.step)
        return renewed(new[0][source], old[0]), renewed(new[1][source], old[1])

    caches = tuple(map(layer, prompts.keys, prompts.values, rows.caches))
    number = renewed(places["number"], rows.number)
    sample = renewed(places["sample"], rows.sample)
    keys = _row_keys(settings["key"], number, sample)
    none = jnp.zeros_like(rows.sampled)
    hidden = plan.shard_rows(prompts.hidden[source])
    token = _chosen(config, plan, weights, hidden, keys, none, settings)
    stopped = _is_stop(token, settings)
    token = renewed(token, rows.token)
    return _sharded(
        plan,
        Rows(
            token=token,
            position=renewed(prompts.lengths[source], rows.position),
            sampled=renewed(none + 1, rows.sampled),
            number=number,
            sample=sample,
            live=renewed(~stopped & (settings["max_new_tokens"] > 1), rows.live),
            stopped=renewed(stopped, rows.stopped),
            output=_recorded(rows.output, token, rows.step),
            step=rows.step,
            caches=caches,
        ),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def advance(
    config: DecoderConfig,
    plan: LoopPlan,
    weights: Weights,
    rows: Rows,
    until: jax.Array,
    steps: jax.Array,
    settings: Mapping[str, Any],
) -> Rows:
    """Sample tokens of all rows, until `until` or fewer of them are live.

    Args:
        config: the decoder.
        plan: static settings.
        weights: its parameters.
        rows: the completions.
        until: [] int32.
        steps: [] int32, most steps; no row may exceed its slots in them.
        settings: key, temperature, top_p, max_new_tokens, and stop_ids [S] int32.
    """
    keys = _row_keys(settings["key"], rows.number, rows.sample)
    end = rows.step + steps

    def is_unfinished(rows: Rows) -> jax.Array:
        return (jnp.sum(rows.live) > until) & (rows.step < end)

    def advanced(rows: Rows) -> Rows:
        hidden, caches = apply_token(
            config,
            weights,
            rows.token,
            rows.position,
            rows.step,
            rows.caches,
            dtype=plan.dtype,
        )
        token = _chosen(config, plan, weights, hidden, keys, rows.sampled, settings)
        is_stop = _is_stop(token, settings)
        step, count = rows.step + 1, rows.sampled + rows.live
        return rows._replace(
            token=token,
            # Rows that have ended repeat their last position, which keeps them finite.
            position=rows.position + rows.live,
            sampled=count,
            live=rows.live & ~is_stop & (count < settings["max_new_tokens"]),
            stopped=rows.stopped | (rows.live & is_stop),
            output=_recorded(rows.output, token, step),
            step=step,
            caches=caches,
        )

    return _sharded(plan, jax.lax.while_loop(is_unfinished, advanced, rows))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def with_slots(config: DecoderConfig, plan: LoopPlan, slots: int, rows: Rows) -> Rows:
    """Rows with room for `slots` tokens, more than before."""

    def resized(x: jax.Array, axis: int, length: int) -> jax.Array:
        return ring.resized(x, axis, length, rows.step)

    caches = tuple(
        (resized(key, 3, length), resized(value, 2, length))
        for (key, value), length in zip(rows.caches, ring.layer_slots(config, slots))
    )
    # The newest token is in the slot of the next step: it is not in the cache.
    output = ring.resized(rows.output, 1, slots, rows.step + 1)
    return _sharded(plan, rows._replace(output=output, caches=caches))


def _sharded(plan: LoopPlan, rows: Rows) -> Rows:
    arrays, step = rows._replace(step=None), rows.step  # type: ignore[arg-type]
    sharded: Rows = plan.shard_rows(arrays)
    return sharded._replace(step=step)


def _recorded(output: jax.Array, token: jax.Array, step: jax.Array) -> jax.Array:
    slot = step % output.shape[1]
    zero = jnp.zeros((), jnp.int32)
    return jax.lax.dynamic_update_slice(output, token[:, None], (zero, slot))


def _is_stop(token: jax.Array, settings: Mapping[str, Any]) -> jax.Array:
    return jnp.any(token[:, None] == settings["stop_ids"][None], axis=1)


def _chosen(
    config: DecoderConfig,
    plan: LoopPlan,
    weights: Weights,
    hidden: jax.Array,
    keys: jax.Array,
    count: jax.Array,
    settings: Mapping[str, Any],
) -> jax.Array:
    """Token [R] int32 of each row, the one after `count` [R] tokens.

    Keys depend on the numbers of the prompt, of the sample and of the token alone.
    """
    matrix = head(weights.params)[: plan.vocab_size].astype(plan.dtype)
    logits = head_logits(config, hidden, matrix)
    token_keys = jax.vmap(jax.random.fold_in)(keys, count)
    temperature, top_p = settings["temperature"], settings["top_p"]
    return next_token(logits, token_keys, plan.sampling, temperature, top_p)


def _row_keys(key: jax.Array, number: jax.Array, sample: jax.Array) -> jax.Array:
    """[R] PRNG keys, from the number of the prompt and of the sample."""
    fold = jax.random.fold_in
    return jax.vmap(lambda n, k: fold(fold(key, n), k))(number, sample)
