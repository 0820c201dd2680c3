"""Sample completions: one prefill a prompt, then one jitted loop for all samples."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply_cached, head, init_cache
from targetsft_jax.models.layers import soft_cap
from targetsft_jax.parallel.processes import to_host

SHORTEST_BUCKET = 64  # below it, another compilation costs more than padding


@dataclasses.dataclass(frozen=True)
class Completion:
    """What followed a prompt.

    Attributes:
        tokens: the sampled ids, without the stop token.
        finished: a stop token ended it; False when max_new_tokens did.
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
    dtype=jnp.float32,
    batch_size: int | None = None,
    row_sharding: NamedSharding | None = None,
) -> list[list[Completion]]:
    """Sample `samples` completions of every prompt.

    A prompt is padded to the next power of two, so a set of prompts compiles only a
    few programs. Each sample draws from a key made of its prompt's place in `prompts`
    and its sample number: results do not depend on `batch_size` (up to rounding: a
    matrix multiplication of another size may add in another order).

    Args:
        config: the decoder.
        params: its parameters, on one device or on a mesh.
        prompts: token ids, at least one a prompt.
        samples: completions a prompt.
        max_new_tokens: the most tokens of a completion, its stop token included.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: sample from the fewest most probable tokens that hold this much
            probability ("nucleus sampling", arXiv:1904.09751); 1 is the whole softmax.
        top_k: sample from the so many most probable tokens, and those as probable as
            the last of them; 0 is all. Before `top_p`, which counts what it leaves.
        stop_ids: tokens that end a completion; may be empty.
        key: PRNG key; the same key gives the same completions.
        vocab_size: ids from here on are never sampled, for models whose embedding has
            padded rows; `config.vocab_size` when None.
        dtype: compute and cache dtype. Logits and probabilities are float32.
        batch_size: prompts decoded at a time, `batch_size * samples` rows of cache;
            all prompts of one padded length when None.
        row_sharding: a sharding whose first axis spreads the rows over a mesh. With
            None, every device of the parameters' mesh holds every row.

    Returns:
        Per prompt a list of `samples` completions.

    Raises:
        ValueError: an empty prompt, a token id outside the vocabulary, or a setting
            out of range.
    """
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    _check_settings(samples, max_new_tokens, temperature, top_p, top_k)
    _check_tokens(config, prompts, vocab_size)
    plan = _Plan(
        samples=samples,
        max_new_tokens=max_new_tokens,
        greedy=temperature == 0,
        nucleus=top_p < 1,
        top_k=min(top_k, vocab_size),
        vocab_size=vocab_size,
        dtype=jnp.dtype(dtype),
        row_sharding=row_sharding,
    )
    settings = {
        "key": key,
        "temperature": np.float32(temperature),
        "top_p": np.float32(top_p),
        # -1 is no token: an empty array would be a special case.
        "stop_ids": np.asarray(sorted({-1, *stop_ids}), np.int32),
    }
    completions: list[list[Completion]] = [[] for _ in prompts]
    for length, members in _buckets(prompts).items():
        size = min(batch_size or len(members), len(members))
        for first in range(0, len(members), size):
            chosen = members[first : first + size]
            # A short last batch repeats a prompt rather than compile another program.
            rows = chosen + chosen[:1] * (_whole_shards(size, plan) - len(chosen))
            batch = _left_padded(prompts, rows, length)
            output = _decode(config, plan, params, batch, settings)
            tokens, ended = to_host(output)
            for index, row in enumerate(chosen):
                completions[row] = [
                    Completion(sample[sample >= 0].tolist(), bool(end))
                    for sample, end in zip(tokens[index], ended[index])
                ]
    return completions


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The settings that shape the compiled program."""

    samples: int
    max_new_tokens: int
    greedy: bool
    nucleus: bool
    top_k: int
    vocab_size: int
    dtype: jnp.dtype
    row_sharding: NamedSharding | None

    def place(self, x):
        """Spread the first axis, the rows, as the caller asked."""
        if self.row_sharding is None:
            return x
        rows = PartitionSpec(self.row_sharding.spec[0])
        return jax.lax.with_sharding_constraint(
            x, NamedSharding(self.row_sharding.mesh, rows)
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(config, plan, params, batch, settings):
    """Prompts [P, L] -> tokens [P, samples, max_new] with -1 after the end, and ended
    [P, samples] bool."""
    prompts, length = batch["tokens"].shape
    rows = prompts * plan.samples
    run = functools.partial(apply_cached, config, params, dtype=plan.dtype)
    matrix = head(params)[: plan.vocab_size].astype(plan.dtype)
    keys = _row_keys(settings["key"], batch["number"], plan.samples)
    zero = jnp.zeros((), jnp.int32)

    def draw(hidden, step, ended, output):
        logits = jnp.einsum(
            "rd,vd->rv", hidden, matrix, preferred_element_type=jnp.float32
        )
        logits = soft_cap(logits, config.final_logit_softcap)
        token = _choose(logits, keys, step, plan, settings)
        stopped = token[:, None] == settings["stop_ids"][None]
        ended = ended | jnp.any(stopped, axis=1)
        column = jnp.where(ended, -1, token)[:, None]
        output = jax.lax.dynamic_update_slice(output, column, (zero, step))
        return token, ended, output

    def unfinished(state):
        step, _, ended, _, _ = state
        return (step < plan.max_new_tokens) & ~jnp.all(ended)

    def advance(state):
        step, token, ended, output, cache = state
        # A row that has ended goes on as padding.
        segment_ids = 1 - ended.astype(jnp.int32)[:, None]
        hidden, cache = run(token[:, None], cache, segment_ids=segment_ids)
        return (step + 1, *draw(hidden[:, 0], step, ended, output), cache)

    def repeat(x):
        return plan.place(jnp.repeat(x, plan.samples, 0, total_repeat_length=rows))

    cache = init_cache(config, prompts, length + plan.max_new_tokens - 1, plan.dtype)
    hidden, cache = run(
        plan.place(batch["tokens"]), cache, segment_ids=plan.place(batch["real"])
    )
    cache = cache._replace(
        layers=jax.tree.map(repeat, cache.layers),
        segment_ids=repeat(cache.segment_ids),
    )
    ended = jnp.zeros(rows, bool)
    output = jnp.full((rows, plan.max_new_tokens), -1, jnp.int32)
    first = draw(repeat(hidden[:, -1]), zero, ended, output)
    state = jax.lax.while_loop(unfinished, advance, (zero + 1, *first, cache))
    _, _, ended, output, _ = state
    shape = (prompts, plan.samples)
    return output.reshape(*shape, -1), ended.reshape(shape)


def _choose(logits, keys, step, plan, settings):
    """The next token [R] int32 from logits [R, V] f32."""
    if plan.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / settings["temperature"]
    if plan.top_k:
        least = jax.lax.top_k(logits, plan.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if plan.nucleus:
        logits = _nucleus(logits, settings["top_p"])
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _nucleus(logits, top_p):
    """-inf for tokens whose more probable ones already hold `top_p`: [R, V] f32.

    The cut-off probability is bracketed by halving instead of sorting the vocabulary
    (a sort of 1,024 x 512 takes fifteen times as long on a CPU).
    """
    probabilities = jax.nn.softmax(logits, axis=-1)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = jnp.where(probabilities > middle, probabilities, 0.0)
        enough = jnp.sum(above, axis=-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # More than top_p lies above `low`, less above `high`: tokens above `low` stay.
    most = jnp.max(probabilities, axis=-1, keepdims=True)
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(most), most))
    return jnp.where(probabilities > low, logits, -jnp.inf)


def _row_keys(key, numbers, samples):
    """One key a row, from its prompt's and its sample's numbers: [P * samples]."""

    def of_prompt(number):
        own = jax.random.fold_in(key, number)
        return jax.vmap(lambda sample: jax.random.fold_in(own, sample))(
            jnp.arange(samples, dtype=jnp.int32)
        )

    return jax.vmap(of_prompt)(numbers).reshape(numbers.shape[0] * samples, *key.shape)


def _buckets(prompts):
    """Prompt numbers by padded length, shortest first."""
    buckets: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        length = max(SHORTEST_BUCKET, 1 << (len(prompt) - 1).bit_length())
        buckets.setdefault(length, []).append(number)
    return dict(sorted(buckets.items()))


def _left_padded(prompts, rows, length):
    """Prompts ending in the last column, so that one column holds what comes next."""
    tokens = np.zeros((len(rows), length), np.int32)
    real = np.zeros((len(rows), length), np.int32)
    for index, row in enumerate(rows):
        start = length - len(prompts[row])
        tokens[index, start:] = prompts[row]
        real[index, start:] = 1
    return {"tokens": tokens, "real": real, "number": np.asarray(rows, np.int32)}


def _whole_shards(size, plan):
    """`size` rounded up to a multiple of the row sharding's parts."""
    if plan.row_sharding is None:
        return size
    axes = plan.row_sharding.spec[0]
    axes = axes if isinstance(axes, tuple) else (axes,)
    parts = math.prod(plan.row_sharding.mesh.shape[axis] for axis in axes if axis)
    return -(-size // parts) * parts


def _check_settings(samples, max_new_tokens, temperature, top_p, top_k):
    for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; 0 is greedy, above 0 samples.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be in (0, 1].")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be 0 (all tokens) or more.")


def _check_tokens(config, prompts, vocab_size):
    if not 0 < vocab_size <= config.vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}; the model has {config.vocab_size} rows."
        )
    for number, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(
                f"prompt {number} is empty; there is nothing to continue. Start it "
                "with the tokenizer's first token."
            )
        outside = [token for token in prompt if not 0 <= token < config.vocab_size]
        if outside:
            raise ValueError(
                f"prompt {number} has token {outside[0]}; the model's vocabulary is "
                f"0..{config.vocab_size - 1}. Is it another model's tokenizer?"
            )
