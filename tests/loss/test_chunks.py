"""Loop over chunks: the order of live tokens, and sums over chunks."""

import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import METHODS
from targetsft_jax.loss.chunks import (
    Batch,
    LiveTokens,
    Spec,
    capped_logits,
    chunked_loss,
)
from targetsft_jax.loss.tile import Columns

RNG = np.random.default_rng(0)
WEIGHTS = np.array([0, 1, 0, 2, 3, 0, 4], "f4")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100])
def test_live_tokens_are_taken_once_and_in_order(size: int):
    live = LiveTokens.of(jnp.asarray(WEIGHTS), size)
    numbers = jnp.arange(7) + 10
    rows, values = zip(*(live.take(i, numbers) for i in range(int(live.chunks))))
    assert live.size == min(size, 7) and int(live.chunks) == -(-4 // live.size)
    order = np.concatenate(rows)[:4].tolist()
    assert order == [1, 3, 4, 6]
    values = np.concatenate(values)
    np.testing.assert_array_equal(values[:4], [11, 13, 14, 16])
    # Tokens of weight 0 and padding are zeroed, even if they are NaN.
    assert not values[4:].any()


def test_without_live_tokens_there_are_no_chunks():
    assert LiveTokens.of(jnp.zeros(5), 2).chunks == 0


def test_a_cap_bounds_the_logits():
    states, head = RNG.normal(size=(2, 3, 4)).astype("f4")
    raw = states @ head.T
    np.testing.assert_allclose(capped_logits(states, head, None), raw, rtol=1e-5)
    capped = 0.5 * np.tanh(raw / 0.5)
    np.testing.assert_allclose(capped_logits(states, head, 0.5), capped, rtol=1e-5)


def _sums(rows: slice, **options):
    hidden, head = RNG_HIDDEN[rows], RNG_HEAD
    batch = Batch(jnp.arange(7)[rows], jnp.asarray(WEIGHTS)[rows], {}, {})
    spec = Spec(METHODS["dft"], None, {})
    defaults = {"chunk_size": 2, "gradients": ("hidden", "head")}
    return chunked_loss(
        spec, Columns(9), hidden, head, batch, {}, **{**defaults, **options}
    )


RNG_HIDDEN = jnp.asarray(RNG.normal(size=(7, 4)), "float32")
RNG_HEAD = jnp.asarray(RNG.normal(size=(9, 4)), "float32")


def test_sums_add_up_over_tokens():
    """Two halves of the tokens give the sums and the gradients of all."""
    both, first, second = _sums(slice(0, 7)), _sums(slice(0, 4)), _sums(slice(4, 7))
    for name, value in both.sums.items():
        parts = first.sums[name] + second.sums[name]
        np.testing.assert_allclose(value, parts, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both.d_head, first.d_head + second.d_head, atol=1e-5)
    hidden = np.concatenate([first.d_hidden, second.d_hidden])
    np.testing.assert_allclose(both.d_hidden, hidden, atol=1e-6)
    assert not both.d_hidden[WEIGHTS == 0].any()


def test_only_requested_gradients_are_computed():
    names = ("d_hidden", "d_head")
    for gradients, present in (
        ((), ()),
        (("hidden",), names[:1]),
        (("head",), names[1:]),
    ):
        sums = _sums(slice(0, 7), gradients=gradients)
        assert tuple(x for x in names if getattr(sums, x) is not None) == present


def test_further_trips_change_nothing():
    """A device with fewer chunks than others runs empty ones."""
    plain, longer = (
        _sums(slice(0, 7)),
        _sums(slice(0, 7), trips=lambda count: count + 3),
    )
    np.testing.assert_array_equal(plain.d_head, longer.d_head)
    np.testing.assert_array_equal(plain.d_hidden, longer.d_hidden)
    assert plain.sums == longer.sums
