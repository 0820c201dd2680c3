"""Importance weights per trajectory, in packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import method_cases

from targetsft_jax import trajectory_weight

RNG = np.random.default_rng(2)
LOGPROB = -RNG.exponential(size=9).astype(np.float32)
REFERENCE = -RNG.exponential(size=9).astype(np.float32)
SEGMENTS = np.array([7, 7, 7, 2, 2, 0, 0, 0, 0])


def _by_loop(logprob, reference, segments, mask, mode, temperature, clip):
    """The definition, token by token in float64."""
    weights = []
    for segment in segments:
        ratios = (logprob.astype(np.float64) - reference)[(segments == segment) & mask]
        total = ratios.sum() / (max(len(ratios), 1) if mode == "mean" else 1)
        weights.append(np.clip(np.exp(temperature * total), *clip))
    return np.array(weights)


@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_equals_the_definition(mode: str, temperature: float):
    mask = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    for counted in (np.ones(9, bool), mask):
        for clip in ((0.0, 16.0), (0.8, 1.2), (0.0, 0.0), (2.0, 2.0)):
            arguments = (mode, temperature, clip)
            expected = _by_loop(LOGPROB, REFERENCE, SEGMENTS, counted, *arguments)
            options = dict(zip(("mode", "temperature", "clip"), arguments))
            result = trajectory_weight(
                LOGPROB, REFERENCE, SEGMENTS, loss_mask=counted, **options
            )
            np.testing.assert_allclose(result, expected, rtol=2e-6)
    # The last segment has no counted token: weight 1, not NaN.
    result = trajectory_weight(LOGPROB, REFERENCE, SEGMENTS, mode=mode, loss_mask=mask)
    np.testing.assert_array_equal(result[5:], 1)


def test_mode_token_weights_tokens_separately():
    result = trajectory_weight(
        LOGPROB, REFERENCE, SEGMENTS, mode="token", clip=(0.5, 2.0)
    )
    expected = np.clip(np.exp(LOGPROB - REFERENCE), 0.5, 2.0)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "sum", "token"])
def test_packed_rows_equal_separate_rows(mode: str):
    apart = [
        trajectory_weight(LOGPROB[rows], REFERENCE[rows], SEGMENTS[rows], mode=mode)
        for rows in (slice(0, 3), slice(3, 5), slice(5, 9))
    ]
    packed = trajectory_weight(LOGPROB, REFERENCE, SEGMENTS, mode=mode)
    np.testing.assert_allclose(packed, np.concatenate(apart), rtol=1e-6)
    # The same ids in two rows are different trajectories, also where B = L.
    square = [x.reshape(3, 3) for x in (LOGPROB, REFERENCE, SEGMENTS % 2)]
    rows = [trajectory_weight(*row, mode=mode) for row in zip(*square)]
    both = trajectory_weight(*square, mode=mode)
    np.testing.assert_allclose(both, np.stack(rows), rtol=1e-6)
    assert trajectory_weight(*(x[None] for x in square), mode=mode).shape == (1, 3, 3)


def test_segments_need_not_be_adjacent_nor_small():
    order = np.array([4, 0, 8, 2, 6, 1, 7, 3, 5])
    ids = np.array([2**31 - 1, -5, 0])[np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])]
    result = trajectory_weight(LOGPROB[order], REFERENCE[order], ids[order])
    expected = trajectory_weight(LOGPROB, REFERENCE, SEGMENTS)
    np.testing.assert_allclose(result, np.asarray(expected)[order], rtol=1e-6)


def test_a_long_product_does_not_overflow():
    """e^±20000 is out of range: clipped before the exponential."""
    zeros, ids = np.zeros(2000, np.float32), np.zeros(2000, int)
    far = np.full(2000, -10, np.float32)
    for mode in ("sum", "mean", "token"):
        up = trajectory_weight(zeros, far, ids, mode=mode)
        down = trajectory_weight(far, zeros, ids, mode=mode, clip=(0.25, 4.0))
        np.testing.assert_allclose(up, 16, rtol=1e-6)
        np.testing.assert_allclose(down, 0.25, rtol=1e-6)
    # Tokens outside the mask are ignored.
    mask = np.arange(2000) < 5
    garbage = np.where(mask, zeros, -np.inf)
    result = trajectory_weight(garbage, garbage, ids, mode="mean", loss_mask=mask)
    np.testing.assert_array_equal(result, 1)


def test_no_gradient_and_the_same_under_jit():
    def total(logprob, reference):
        return trajectory_weight(logprob, reference, SEGMENTS).sum()

    for leak in jax.grad(total, (0, 1))(jnp.asarray(LOGPROB), jnp.asarray(REFERENCE)):
        np.testing.assert_array_equal(leak, 0)
    arguments = (LOGPROB, REFERENCE, SEGMENTS)
    jitted = jax.jit(trajectory_weight)(*arguments)
    np.testing.assert_allclose(jitted, trajectory_weight(*arguments), rtol=1e-6)


def test_bfloat16_is_summed_in_float32():
    """A bfloat16 sum of 512 ratios of 1/512 stops growing long before 1."""
    ratio = jnp.full(512, 2.0**-9, jnp.bfloat16)
    zeros, ids = jnp.zeros(512, jnp.bfloat16), jnp.zeros(512, int)
    result = trajectory_weight(ratio, zeros, ids, mode="sum")
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, np.e, rtol=1e-6)
    with jax.enable_x64(True):
        wide = trajectory_weight(np.zeros(3), np.zeros(3), np.zeros(3, int))
        assert wide.dtype == jnp.float64


def test_golden_modes_differ_from_each_other():
    """Otherwise the vectors would pass with the mode ignored."""
    _, data = method_cases.golden_tile(method_cases.GOLDEN_FILE)
    arguments = (data["q_logp"], data["ref_logp"], data["seg"])
    result = {
        mode: np.asarray(trajectory_weight(*arguments, mode=mode))
        for mode in ("mean", "sum", "token")
    }
    for one, other in (("mean", "sum"), ("mean", "token"), ("sum", "token")):
        assert np.abs(result[one] - result[other]).max() > 0.1


def test_refused():
    arguments = (LOGPROB, REFERENCE, SEGMENTS)
    with pytest.raises(ValueError, match="mode is 'median'.*mean, sum, token"):
        trajectory_weight(*arguments, mode="median")
    for clip in (
        *((2.0, 1.0), (-1.0, 1.0), (0.0, float("nan")), (0.0, float("inf"))),
        *((0.0, 1e39), (1.0,), (0.0, 1.0, 2.0), 3.0, None, ("a", "b"), (False, True)),
    ):
        with pytest.raises(ValueError, match="clip is"):
            trajectory_weight(*arguments, clip=clip)
    square = (LOGPROB.reshape(3, 3), REFERENCE.reshape(3, 3))
    for wrong in (
        (LOGPROB, REFERENCE[:1], SEGMENTS),
        (LOGPROB, REFERENCE, SEGMENTS[:3]),
        (*square, SEGMENTS[:3]),
    ):
        with pytest.raises(ValueError, match="expected one entry for each token"):
            trajectory_weight(*wrong)
    with pytest.raises(ValueError, match="expected one entry for each token"):
        trajectory_weight(*arguments, loss_mask=np.ones(3, bool))
    for temperature in (float("nan"), float("inf"), -1.0, 1e39, "1", None, True):
        with pytest.raises(ValueError, match="temperature is"):
            trajectory_weight(*arguments, temperature=temperature)
    with pytest.raises(ValueError, match="segment_ids are float64; expected integers"):
        trajectory_weight(LOGPROB, REFERENCE, SEGMENTS / 2)
    with pytest.raises(ValueError, match=r"loss_mask is 0.5 at index \(0,\)"):
        trajectory_weight(*arguments, loss_mask=np.full(9, 0.5))
    for empty in (np.zeros(0), np.zeros(())):
        with pytest.raises(ValueError, match="expected .* with tokens"):
            trajectory_weight(empty, empty, empty.astype(int))


def test_wide_ids_do_not_wrap():
    """Modulo 2^32 the two trajectories would be one."""
    result = trajectory_weight(LOGPROB, REFERENCE, SEGMENTS + (SEGMENTS == 2) * 2**32)
    expected = trajectory_weight(LOGPROB, REFERENCE, SEGMENTS)
    np.testing.assert_array_equal(result, expected)
    ids = np.array([1] * 4 + [2**32 + 1] * 5)
    halves = trajectory_weight(LOGPROB, REFERENCE, ids)
    narrow = trajectory_weight(LOGPROB, REFERENCE, (ids > 1).astype(int))
    np.testing.assert_array_equal(halves, narrow)


def test_a_mask_of_any_dtype_selects_the_same_tokens():
    mask = np.arange(9) % 2 == 0
    arguments = (LOGPROB, REFERENCE, SEGMENTS)
    expected = trajectory_weight(*arguments, loss_mask=mask)
    for dtype in (int, np.float32):
        result = trajectory_weight(*arguments, loss_mask=mask.astype(dtype))
        np.testing.assert_array_equal(result, expected)
