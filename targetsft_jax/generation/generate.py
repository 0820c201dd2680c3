"""Sample completions of prompts, in batches of equal padded length."""

import dataclasses
import math
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from targetsft_jax.generation.loop import LoopPlan, decode
from targetsft_jax.generation.sampling import SamplingPlan, SamplingSettings
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.padding import padded_length
from targetsft_jax.models.rope import LongRopeScaling
from targetsft_jax.parallel import preemption
from targetsft_jax.parallel.processes import to_host


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer to a prompt.

    Attributes:
        tokens: the sampled ids, without the stop token.
        finished: True if a stop token ended it, False if `max_new_tokens` did.
    """

    tokens: list[int]
    finished: bool


def generate(
    config: DecoderConfig,
    params: dict,
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

    A prompt is padded to the next power of two, so that few programs are compiled. The
    key of each sample is derived from the number of its prompt and its sample number:
    results do not depend on `batch_size` or on the other prompts (up to rounding, since
    matrix products of other sizes may add in another order).

    Args:
        config: the decoder.
        params: its parameters, on one device or on a mesh.
        prompts: token ids, at least one per prompt.
        samples, max_new_tokens, temperature, top_p, top_k: as in `SamplingSettings`.
        stop_ids: tokens that end a completion; may be empty.
        key: PRNG key; equal keys give equal completions.
        vocab_size: ids ≥ vocab_size are never sampled, for models whose embedding has
            padded rows; None for `config.vocab_size`.
        dtype: dtype of the forward passes and the cache. Logits and probabilities are
            float32.
        batch_size: prompts decoded at a time, `batch_size * samples` rows of cache;
            None for all prompts of one padded length whose cache and scores fit the
            memory of a device.
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
        samples=samples,
        max_new_tokens=max_new_tokens,
        sampling=SamplingPlan(temperature == 0, top_p < 1, min(top_k, vocab_size)),
        vocab_size=vocab_size,
        dtype=jnp.dtype(dtype),
        row_sharding=row_sharding,
    )
    settings = {
        "key": key,
        "temperature": np.float32(temperature),
        "top_p": np.float32(top_p),
        # -1 is not a token: it keeps the array from being empty.
        "stop_ids": np.asarray(sorted({-1, *stop_ids}), np.int32),
        "first_sample": np.int32(first_sample),
    }
    identity = range(len(prompts)) if numbers is None else numbers
    completions: list[list[Completion]] = [[] for _ in prompts]
    buckets = _buckets(prompts)
    sizes = {
        length: _batch_size(config, plan, length, members, batch_size)
        for length, members in buckets.items()
    }
    for length, members in buckets.items():
        size = sizes[length]
        for first in range(0, len(members), size):
            preemption.check()
            chosen = members[first : first + size]
            # Filled with copies of a prompt, so that one program serves all batches.
            missing = _padded_size(size, row_sharding) - len(chosen)
            batch = left_padded(
                prompts, chosen + chosen[:1] * missing, length, identity
            )
            outputs = decode(config, plan, params, batch, settings)
            try:
                tokens, ended = to_host(outputs)
            except BaseException:
                # A process that ends while its devices compute may crash.
                jax.block_until_ready(outputs)
                raise
            for index, number in enumerate(chosen):
                completions[number] = [
                    Completion(sample[sample >= 0].tolist(), bool(end))
                    for sample, end in zip(tokens[index], ended[index])
                ]
    return completions


def _buckets(prompts: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Numbers of the prompts by padded length, shortest first."""
    buckets: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        buckets.setdefault(padded_length(len(prompt)), []).append(number)
    return dict(sorted(buckets.items()))


def check_memory(config: DecoderConfig, plan: LoopPlan, length: int) -> None:
    """Raise ValueError if one prompt of a padded length does not fit a device."""
    _batch_size(config, plan, length, [0], 1)


def _batch_size(
    config: DecoderConfig,
    plan: LoopPlan,
    length: int,
    members: list[int],
    requested: int | None,
) -> int:
    """Prompts per batch: as requested, or as many as fit the memory of a device.

    Raises:
        ValueError: not even these fit.
    """
    memory = device_memory()
    size = min(requested or len(members), len(members))
    if requested is None and memory is not None:
        # Of a prompt alone; a batch is a multiple of the shards.
        one = batch_bytes(config, plan, 1, length)
        size = max(1, min(size, memory * shards_of(plan.row_sharding) // one))
    rows = -(-_padded_size(size, plan.row_sharding) // shards_of(plan.row_sharding))
    needed = batch_bytes(config, plan, rows, length)
    if memory is not None and needed > memory:
        raise ValueError(
            f"prompt {members[0]} is padded to {length:,} tokens: {size} such prompt(s)"
            f" with {plan.samples} samples of {plan.max_new_tokens:,} tokens need"
            f" {needed / 2**30:,.1f} GiB of KV cache and attention scores per device,"
            f" which has {memory / 2**30:,.1f} GiB; shorten the prompt, or lower"
            " samples or the batch size"
        )
    return size


def batch_bytes(
    config: DecoderConfig, plan: LoopPlan, prompts: int, length: int
) -> int:
    """Bytes of the KV cache and of the prefill's attention scores of a batch.

    Args:
        config: the decoder.
        plan: samples, maximum of new tokens, dtype of the cache.
        prompts: prompts of the batch on one device.
        length: tokens that they are padded to.
    """
    slots = length + plan.max_new_tokens - 1
    per_slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    cache = prompts * plan.samples * slots * per_slot * plan.dtype.itemsize
    # Scores and their softmax in float32, of one layer.
    return cache + prompts * config.num_heads * length * slots * 2 * 4


def device_memory() -> int | None:
    """Bytes of memory of one device, or None if it is unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        # The devices of a simulated mesh share it.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")


def left_padded(
    prompts: Sequence[Sequence[int]],
    chosen: list[int],
    length: int,
    identity: Sequence[int],
) -> dict[str, np.ndarray]:
    """Batch of prompts padded on the left, so that completions start in one column."""
    tokens = np.zeros((len(chosen), length), np.int32)
    is_real = np.zeros((len(chosen), length), np.int32)
    for index, number in enumerate(chosen):
        start = length - len(prompts[number])
        tokens[index, start:] = prompts[number]
        is_real[index, start:] = 1
    return {
        "tokens": tokens,
        "is_real": is_real,
        "number": np.asarray([identity[number] for number in chosen], np.int32),
    }


def _padded_size(size: int, row_sharding: NamedSharding | None) -> int:
    """Batch size rounded up to a multiple of the shards of the rows."""
    shards = shards_of(row_sharding)
    return -(-size // shards) * shards


def shards_of(row_sharding: NamedSharding | None) -> int:
    """Number of shards of the rows."""
    if row_sharding is None:
        return 1
    axes = row_sharding.spec[0]
    axes = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(row_sharding.mesh.shape[axis] for axis in axes if axis)


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
    """Raise ValueError if a completion may cross the original context of LongRoPE.

    Beyond it all keys of a text rotate by other angles, and those in the cache do not.
    """
    scaling = config.rope_scaling
    if not isinstance(scaling, LongRopeScaling):
        return
    original = scaling.original_max_position_embeddings
    # The last new token is not an input.
    if length <= original < length + max_new_tokens - 1:
        raise ValueError(
            f"prompt {number} has {length:,} tokens and max_new_tokens is "
            f"{max_new_tokens:,}: the completion may cross position {original:,}, "
            "where the frequencies of this model's LongRoPE change; expected at most "
            f"{original - length + 1:,} new tokens, or a prompt of more than "
            f"{original:,}"
        )
