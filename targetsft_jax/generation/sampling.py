"""Next-token choice: temperature, top-k and nucleus sampling as pure functions."""

import dataclasses

import jax
import jax.numpy as jnp

from targetsft_jax.keys import Domain, at_least, between, key, refusals, section


@section
class SamplingSettings:
    """Sampling settings of completions."""

    samples: int = key(16, "k: completions per problem.", at_least(1, 10**5))
    max_new_tokens: int = key(
        128, "Maximum tokens per completion, stop token included.", at_least(1, 2**20)
    )
    temperature: float = key(
        1.0,
        "Divisor of the logits; 0 decodes greedily.",
        Domain(
            "0 or more, and from 0.0001 to 1,000,000 unless 0",
            lambda divisor: divisor == 0 or 1e-4 <= divisor <= 1e6,
        ),
    )
    top_p: float = key(
        1.0,
        "Nucleus sampling: the fewest tokens of this total probability; 1 disables it.",
        between(0, 1, closed="(]"),
    )
    top_k: int = key(
        0,
        "Top-k sampling, applied before top_p; 0 disables it.",
        at_least(0),
    )

    def check(self) -> None:
        """Check every setting against its domain.

        Raises:
            ValueError: a setting is out of its domain; the message names all such.
        """
        problems = list(refusals(self))
        if problems:
            raise ValueError("; ".join(problems))


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """The part of the settings that shapes the compiled program.

    Attributes:
        greedy: True to take the most probable token without sampling.
        nucleus: True if `top_p` removes tokens.
        top_k: number of tokens to sample from; 0 for all.
    """

    greedy: bool
    nucleus: bool
    top_k: int


def next_token(
    logits: jax.Array,
    keys: jax.Array,
    plan: SamplingPlan,
    temperature: jax.Array,
    top_p: jax.Array,
) -> jax.Array:
    """Choose one token per row.

    Args:
        logits: [R, V] f32.
        keys: [R] PRNG keys, one per row.
        plan: static settings.
        temperature: [] f32, divides the logits.
        top_p: [] f32, mass of the nucleus within the top-k tokens.

    Returns:
        [R] int32.
    """
    if plan.greedy:
        return _first_largest(logits)
    logits = logits / temperature
    if plan.top_k:
        logits = top_k_logits(logits, plan.top_k)
    if plan.nucleus:
        logits = nucleus_logits(logits, top_p)
    # The Gumbel trick of `jax.random.categorical`, with another argmax.
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return _first_largest(logits + noise)


def _first_largest(logits: jax.Array) -> jax.Array:
    """`argmax` of each row as two reductions, half of its time on a CPU."""
    largest = jnp.max(logits, axis=-1, keepdims=True)
    last = logits.shape[-1] - 1
    tokens = jnp.arange(last + 1, dtype=jnp.int32)
    return jnp.min(jnp.where(logits == largest, tokens, last), axis=-1)


def top_k_logits(logits: jax.Array, k: int) -> jax.Array:
    """Logits [R, V] with -inf below the k-th largest; ties with it are kept."""
    smallest = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits >= smallest, logits, -jnp.inf)


def nucleus_logits(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [R, V] with -inf outside the nucleus: the fewest tokens with mass top_p.

    A token is removed if the mass of more probable ones reaches `top_p`. The cut-off
    probability is found by bisection, since sorting the vocabulary is slow (15 times
    slower on a CPU for 1,024 × 512). See "The Curious Case of Neural Text
    Degeneration", arXiv:1904.09751.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)

    def halve(
        _: int, bracket: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = jnp.where(probabilities > middle, probabilities, 0.0)
        enough = jnp.sum(above, axis=-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # Tokens above `low` have at least the mass top_p, those above `high` less.
    largest = jnp.max(probabilities, axis=-1, keepdims=True)
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(largest), largest))
    return jnp.where(probabilities > low, logits, -jnp.inf)
