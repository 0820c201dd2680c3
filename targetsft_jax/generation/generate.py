"""Sample completions of prompts, in rows that take the next prompt when they end."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from targetsft_jax.generation.loop import LoopPlan
from targetsft_jax.generation.replicas import Replica, replicas_of, sampled
from targetsft_jax.generation.rows import PREFILL_TOKENS, Completion, Work
from targetsft_jax.generation.sampling import SamplingPlan, SamplingSettings
from targetsft_jax.models import ring
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.padding import padded_length
from targetsft_jax.models.rope import DynamicScaling, LongRopeScaling
from targetsft_jax.models.unstacked import Weights, decoding_weights

ROWS = {"cpu": 128, "accelerator": 512}
"""Rows beyond which a step takes longer in proportion, so that more do not help."""


def generate(
    config: DecoderConfig,
    params: "dict[str, Any] | Weights",
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop_ids: Sequence[int],
    key: jax.Array,
    vocab_size: int | None = None,
    dtype: DTypeLike = jnp.float32,
    batch_size: int | None = None,
    row_sharding: NamedSharding | None = None,
    numbers: Sequence[int] | None = None,
    first_sample: int = 0,
) -> list[list[Completion]]:
    """Sample `samples` completions of every prompt.

    A prompt is padded to the next power of two, so that few programs are compiled. A
    row whose completion has ended takes the next one. On a mesh, each group of devices
    with all parameters samples prompts of its own. The
    key of each sample is derived from the number of its prompt and its sample number:
    results do not depend on `batch_size` or on the other prompts (up to rounding, since
    matrix products of other sizes may add in another order).

    Args:
        config: the decoder.
        params: its parameters, on one device or on a mesh; callers that generate
            repeatedly on a CPU save time with those of `decoding_weights`.
        prompts: token ids, at least one per prompt.
        samples, max_new_tokens, temperature, top_p, top_k: as in `SamplingSettings`.
        stop_ids: tokens that end a completion; may be empty.
        key: PRNG key; equal keys give equal completions.
        vocab_size: ids ≥ vocab_size are never sampled, for models whose embedding has
            padded rows; None for `config.vocab_size`.
        dtype: dtype of the forward passes and the cache. Logits and probabilities are
            float32.
        batch_size: prompts decoded at a time, `batch_size * samples` rows of cache;
            None for as many rows as are useful and fit the memory of a device.
        row_sharding: a sharding whose first axis spreads the rows over a mesh. With
            None, every device of the parameters' mesh computes every row.
        numbers: identity of each prompt, an int32 of 0 or more, from which its keys are
            derived; None: its position in `prompts`.
        first_sample: number of the first sample, so that more samples of a prompt can
            be added to earlier ones.

    Returns:
        A list of `samples` completions for each prompt.

    Raises:
        ValueError: an empty prompt, one that leaves no position for a completion, whose
            completion may cross the original context of LongRoPE, or
            whose cache exceeds the memory of a device, a token id outside the
            vocabulary, or a setting out of its domain.
    """
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    SamplingSettings(
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
    ).check()
    check_prompts(config, prompts, vocab_size, max_new_tokens)
    plan = LoopPlan(
        sampling=SamplingPlan(temperature == 0, top_p < 1, min(top_k, vocab_size)),
        vocab_size=vocab_size,
        dtype=jnp.dtype(dtype),
        row_sharding=row_sharding,
    )
    work = Work(
        config,
        plan,
        prompts,
        range(len(prompts)) if numbers is None else numbers,
        samples,
        first_sample,
        max_new_tokens,
        loop_settings(key, temperature, top_p, stop_ids, max_new_tokens),
    )
    if not prompts:
        return []
    weights = decoding_weights(params, dtype)
    replicas, total = replicas_of(weights, row_sharding)
    rows = _rows(work, replicas[0], total, batch_size)
    completions: list[list[Completion]] = [
        [Completion([], False)] * samples for _ in prompts
    ]
    for item, completion in sampled(work, replicas, total, rows):
        completions[item.prompt][item.sample] = completion
    return completions


def loop_settings(
    key: jax.Array,
    temperature: float,
    top_p: float,
    stop_ids: Sequence[int],
    max_new_tokens: int,
) -> dict[str, Any]:
    """Settings of the compiled programs, as arrays (see `loop.advance`)."""
    return {
        "key": key,
        "temperature": np.float32(temperature),
        "top_p": np.float32(top_p),
        # -1 is not a token: it keeps the array from being empty.
        "stop_ids": np.asarray(sorted({-1, *stop_ids}), np.int32),
        "max_new_tokens": np.int32(max_new_tokens),
    }


def _rows(work: Work, replica: Replica, total: int, batch_size: int | None) -> int:
    """Rows of each replica: as requested, or as many as are useful and fit a device.

    Raises:
        ValueError: not even these fit.
    """
    shards = replica.shards
    items = -(-len(work.prompts) * work.samples // total)
    memory = device_memory()
    if batch_size is not None:
        rows = min(items, -(-batch_size * work.samples // total))
    else:
        rows = min(items, ROWS[_platform()])
        if memory is not None:
            one = batch_bytes(work, 1) - batch_bytes(work, 0)
            rows = max(1, min(rows, (memory - batch_bytes(work, 0)) * shards // one))
    rows = -(-rows // shards) * shards
    check_memory(work, rows // shards)
    return rows


def check_memory(work: Work, rows: int) -> None:
    """Raise ValueError if rows and a prefill do not fit the memory of a device."""
    memory = device_memory()
    needed = batch_bytes(work, rows)
    if memory is not None and needed > memory:
        lengths = [len(prompt) for prompt in work.prompts]
        raise ValueError(
            f"prompt {lengths.index(max(lengths))} is padded to"
            f" {padded_length(max(lengths)):,} tokens: {rows} completion(s) at a time"
            f" of up to {work.max_new_tokens:,} more tokens need"
            f" {needed / 2**30:,.1f} GiB of KV cache and attention scores per device,"
            f" which has {memory / 2**30:,.1f} GiB; shorten the prompt, or lower"
            " max_new_tokens, samples or the batch size"
        )


def batch_bytes(work: Work, rows: int) -> int:
    """Bytes of the KV cache of `rows` rows and of the attention scores of a prefill."""
    config = work.config
    slots = sum(ring.layer_slots(config, work.most_slots))
    per_slot = 2 * config.num_kv_heads * config.head_dim * work.plan.dtype.itemsize
    length = padded_length(max(len(prompt) for prompt in work.prompts))
    prompts = max(1, PREFILL_TOKENS // length)
    # Scores and their softmax in float32, of one layer.
    scores = prompts * config.num_heads * length**2 * 2 * 4
    return rows * slots * per_slot + scores


def device_memory() -> int | None:
    """Bytes of memory of one device, or None if it is unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        # The devices of a simulated mesh share it.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")


def _platform() -> str:
    return "cpu" if jax.default_backend() == "cpu" else "accelerator"


def check_prompts(
    config: DecoderConfig,
    prompts: Sequence[Sequence[int]],
    vocab_size: int,
    max_new_tokens: int,
) -> None:
    """Check the tokens of prompts, their number, and that of their completions.

    Raises:
        ValueError: as `generate`.
    """
    if not 0 < vocab_size <= config.vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}; expected 1 to {config.vocab_size}, the rows "
            "of the embedding"
        )
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(
                f"prompt {number} is empty; expected at least one token, such as the "
                "tokenizer's first token"
            )
        if len(prompt) >= config.context_length:
            raise ValueError(
                f"prompt {number} has {len(prompt):,} tokens; expected fewer than the "
                f"model's {config.context_length:,} positions "
                "(max_position_embeddings), so that a completion fits behind it"
            )
        outside = [token for token in prompt if not 0 <= token < config.vocab_size]
        if outside:
            raise ValueError(
                f"prompt {number} has token {outside[0]}; expected 0.."
                f"{config.vocab_size - 1}, the model's vocabulary. Check that the "
                "tokenizer belongs to the model"
            )
        _check_crossing(config, number, len(prompt), max_new_tokens)


def _check_crossing(
    config: DecoderConfig, number: int, length: int, max_new_tokens: int
) -> None:
    """Raise ValueError if a completion may cross the model's original context.

    Beyond that of LongRoPE and of dynamic scaling, all keys of a text rotate by other
    angles, and those in the cache do not.
    """
    scaling = config.rope_scaling
    if not isinstance(scaling, LongRopeScaling | DynamicScaling):
        return
    original = scaling.original_max_position_embeddings
    is_dynamic = isinstance(scaling, DynamicScaling)
    name = "dynamic scaling" if is_dynamic else "LongRoPE"
    longer = "" if is_dynamic else f", or a prompt of more than {original:,}"
    # The last new token is not an input.
    crosses = length + max_new_tokens - 1 > original
    if crosses and (length <= original or is_dynamic):
        raise ValueError(
            f"prompt {number} has {length:,} tokens and max_new_tokens is "
            f"{max_new_tokens:,}: the completion may cross position {original:,}, "
            f"where the frequencies of this model's {name} change; expected at most "
            f"{max(original - length + 1, 0):,} new tokens{longer}"
        )
