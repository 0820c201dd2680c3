"""Arguments are checked in their own dtype: nothing wraps, overflows or is rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.keys import Domain, at_least, between
from targetsft_jax.targets.arguments import (
    column_array,
    counted,
    label_array,
    mask_array,
    real_array,
    unwrapped,
    weight_array,
    whole_number,
)

NOWHERE = np.zeros(3, bool)


@pytest.mark.parametrize(
    "labels, pattern",
    [
        (np.array([0, 1, 2**32 + 1]), r"label 4294967297 at index \(2,\).*\[0, 5\)"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "label 18446744073709551615 at"),
        (np.array([0, 1, 255], np.uint8), "label 255 at"),
        ([0, 1, 5], "label 5 at"),
        ([0, -1, 1], r"label -1 at index \(1,\)"),
        ([0, 1, 2**70], "object; expected integers"),
        ([0.0, 1.0, 2.0], "float64; expected integers"),
        ([True, False, True], "bool; expected integers"),
        ([0j, 1j, 2j], "complex128; expected integers"),
        (["0", "1", "2"], "expected integers"),
    ],
)
def test_labels_refused(labels, pattern: str):
    with pytest.raises(ValueError, match=pattern):
        label_array(labels, 5)
    if "label" in pattern:
        outside = np.asarray(label_array(labels, 5, NOWHERE)) == -1
        assert outside.any() and not outside.all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_traced_labels_of_any_width(dtype: str):
    """A vocabulary of 70,000 does not fit an int8: it is not compared in its dtype."""
    labels = np.array([0, 100, np.iinfo(dtype).max], dtype)
    result = jax.jit(lambda y: label_array(y, 70_000))(labels)
    assert result.dtype == jnp.int32
    expected = [x if x < 70_000 else -1 for x in labels.tolist()]
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(label_array(labels, 70_000, None), result)


def test_wide_traced_labels_do_not_wrap():
    with jax.enable_x64(True):
        labels = jnp.array([2**32 + 1, 1, -(2**32)])
        np.testing.assert_array_equal(
            jax.jit(lambda y: label_array(y, 3))(labels), [-1, 1, -1]
        )


@pytest.mark.parametrize("wrong", [1e300, np.nan, -np.inf, 2**200])
def test_weights_are_finite_in_float32(wrong):
    with pytest.raises(
        ValueError, match=r"weights is .* at index \(1,\); expected a f"
    ):
        weight_array([1.0, float(wrong)])


def test_weights_of_any_real_dtype():
    np.testing.assert_array_equal(weight_array(np.array([2**33, -1])), [2.0**33, -1])
    assert weight_array([True, False]).dtype == jnp.float32
    assert weight_array(np.ones(2, np.float16)).dtype == jnp.float16
    for wrong in ([1j], ["a"], [None]):
        with pytest.raises(ValueError, match="expected real numbers"):
            weight_array(wrong)


def test_columns_are_checked_where_they_count():
    values, tokens = np.array([0.5, 2.0, np.nan]), (3,)
    with pytest.raises(ValueError, match=r"c is 2.0 at index \(1,\); expected a n"):
        column_array("c", values, between(0, 1), tokens)
    column_array("c", values, between(0, 1), tokens, np.array([True, False, False]))
    traced = jax.jit(lambda x: column_array("c", x, between(0, 1), tokens))(values)
    np.testing.assert_array_equal(traced, [0.5, np.nan, np.nan])
    with pytest.raises(ValueError, match=r"c \(2,\) differs from labels \(3,\)"):
        column_array("c", values[:2], None, tokens)


def test_infinite_entries_need_a_domain_that_has_them():
    low = Domain("a number or -inf", lambda x: x < np.inf, infinite=True)
    values = np.array([-np.inf, 0.0])
    np.testing.assert_array_equal(column_array("c", values, low, (2,)), values)
    for domain in (None, at_least(-5)):
        with pytest.raises(ValueError, match="c is -inf"):
            column_array("c", values, domain, (2,))
    with pytest.raises(ValueError, match="c is inf"):
        column_array("c", -values, low, (2,))


def test_masks_are_zero_or_one():
    for mask in ([True, False], [1, 0], [1.0, 0.0]):
        np.testing.assert_array_equal(mask_array("m", mask), [True, False])
    with pytest.raises(ValueError, match=r"m is 0.5 at index \(0,\); expected 0 or 1"):
        mask_array("m", [0.5, 0])


def test_real_arrays_keep_floating_dtypes_and_do_not_wrap_integers():
    assert real_array("z", jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(real_array("z", [2**33]), [2.0**33])
    with pytest.raises(ValueError, match="z is complex128; expected real"):
        real_array("z", [1j])
    with pytest.raises(ValueError, match="n is 4294967296 at .* int32"):
        unwrapped("n", np.array([1, 2**32]))


@pytest.mark.parametrize("wrong", [0, -1, 6, 2.0, True, "3", None, np.nan])
def test_whole_numbers(wrong):
    assert whole_number("k", np.int64(2), 1, 5) == 2
    with pytest.raises(ValueError, match="k is .*; expected a whole number, 1 to 5"):
        whole_number("k", wrong, 1, 5)


def test_traced_weights_count_at_run_time():
    assert jax.jit(lambda w: counted(w) is None)(np.ones(2))
    np.testing.assert_array_equal(counted([0, 2]), [False, True])
