"""Examples survive flattening, in parts of any size, with their sources and origins."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targetsft_jax.data import examples as module
from targetsft_jax.data.chat import Example
from targetsft_jax.data.examples import flat_parts, from_flat, join_parts

MASKS = st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1)


def example(i, mask, **columns):
    """Example i: its tokens, source and origin follow from i."""
    tokens = np.arange(100 * i, 100 * i + len(mask), dtype=np.int32)
    return Example(tokens, np.array(mask, bool), columns, f"é:{i}", i % 3)


@settings(max_examples=30, deadline=None)
@given(MASKS, st.integers(1, 5))
def test_taken_examples_equal_those_that_were_flattened(masks, part):
    originals = [
        example(i, mask, weight=np.full(len(mask), i, np.float32))
        for i, mask in enumerate(masks)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", part)
        parts = list(flat_parts(originals))
    assert len(parts) == -(-len(originals) // part)
    flat = from_flat(join_parts(parts))
    assert len(flat) == len(originals) and len(flat.origins) == len(originals)
    assert flat.source.dtype == np.int32
    for i, original in enumerate(originals):
        example_i = flat.take(i)
        np.testing.assert_array_equal(example_i.tokens, original.tokens)
        np.testing.assert_array_equal(example_i.loss_mask, original.loss_mask)
        np.testing.assert_array_equal(example_i.columns["weight"], i)
        assert example_i.origin == original.origin
        assert example_i.source == original.source
        positions = [n for n, on in enumerate(masks[i]) if on and n > 0]
        assert flat.first_trained[i] == (positions[0] if positions else len(masks[i]))


def test_an_origin_may_have_bytes_that_are_not_utf8():
    """A file name on Linux, as Python decodes it."""
    original = dataclasses.replace(example(1, [0, 1]), origin="\udcff.jsonl:1")
    flat = from_flat(join_parts(flat_parts([original])))
    assert flat.take(0).origin == original.origin


def test_a_prefix_can_be_taken():
    flat = from_flat(join_parts(flat_parts([example(1, [0, 1, 1])])))
    assert flat.take(0, 2).tokens.tolist() == [100, 101]


def test_unequal_columns_and_no_examples_are_refused():
    column = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="é:2 has no weight and é:1 has one"):
        list(flat_parts([example(1, [0, 1], weight=column), example(2, [0, 1])]))
    with pytest.raises(ValueError, match="no examples"):
        join_parts(flat_parts([]))
