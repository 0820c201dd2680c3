"""Importance weights of trajectories (iw-SFT), per segment of a packed row."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.keys import at_least
from targetsft_jax.targets.arguments import concrete, mask_array, real_array
from targetsft_jax.targets.method import LARGEST, Hyper
from targetsft_jax.targets.rows import compute_dtype

MODES = ("mean", "sum", "token")

TEMPERATURE = Hyper(1.0, "Factor on the log-ratio.", at_least(0), static=True)


def trajectory_weight(
    logprob: Array,
    reference_logprob: Array,
    segment_ids: Array,
    *,
    mode: str = "mean",
    temperature: float = 1.0,
    clip: tuple[float, float] = (0.0, 16.0),
    loss_mask: Array | None = None,
) -> Array:
    """clip(exp(temperature · aggregate(log π − log π_ref))) per trajectory.

    Args:
        logprob: log π of the labels under the policy q [..., L], detached here.
        reference_logprob: the same under the frozen reference [..., L].
        segment_ids: trajectory of each token [..., L], int; equal ids in a row are
            one trajectory.
        mode: "mean" over the trajectory's tokens (the published code's geometric
            mean), "sum" (the product ratio of the paper), or "token".
        temperature: factor ≥ 0 on the aggregated log-ratio.
        clip: smallest and largest weight, finite; applied in log space, so that a
            product over a long trajectory cannot overflow.
        loss_mask: [..., L] bool or 0 and 1; tokens outside it (prompt, padding) are
            excluded from the aggregate. None: all tokens count.

    Returns:
        Weights [..., L] float32 (float64 for float64 input), constant in θ, the same
        at all tokens of a trajectory; NaN in one with a log-probability of NaN.

    See *Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be
    improved)* (https://arxiv.org/abs/2507.12856).

    Raises:
        ValueError: an unknown mode, a temperature or clip outside its domain, ids that
            are not integers, a mask of other values than 0 and 1, or shapes that
            differ.

    Example:
        Two trajectories of two tokens; the policy likes the second one better:

        >>> import jax.numpy as jnp
        >>> policy = jnp.log(jnp.array([0.5, 0.5, 0.8, 0.4]))
        >>> reference = jnp.log(jnp.array([0.5, 0.5, 0.4, 0.2]))
        >>> weights = trajectory_weight(policy, reference, jnp.array([1, 1, 2, 2]))
        >>> [f"{weight:.1f}" for weight in weights]
        ['1.0', '1.0', '2.0', '2.0']
    """
    check_settings(mode, temperature, clip)
    low, high = clip
    logprob = real_array("logprob", logprob)
    reference_logprob = real_array("reference_logprob", reference_logprob)
    others = (reference_logprob, segment_ids, loss_mask)
    shapes = [np.shape(x) for x in others if x is not None]
    if any(shape != logprob.shape for shape in shapes):
        raise ValueError(
            f"logprob is {logprob.shape}, but the reference, the segments and the mask "
            f"are {shapes}: expected one entry for each token"
        )
    if logprob.size == 0 or logprob.ndim == 0:
        raise ValueError(f"logprob is {logprob.shape}; expected [..., L] with tokens")
    # Widened first: a bfloat16 sum over a trajectory has no correct digits.
    dtype = compute_dtype(logprob)
    ratio = stop_gradient(logprob.astype(dtype) - reference_logprob.astype(dtype))
    if mode != "token":
        mask = jnp.ones(ratio.shape, bool)
        if loss_mask is not None:
            mask = mask_array("loss_mask", loss_mask)
        ratio = _aggregate(ratio, _segments(segment_ids), mask, mode)
    log_weight = temperature * ratio
    floor = jnp.log(jnp.asarray(low, ratio.dtype))
    ceiling = jnp.log(jnp.asarray(high, ratio.dtype))
    return jnp.exp(jnp.clip(log_weight, floor, ceiling))


def check_settings(mode: str, temperature: float, clip: tuple[float, float]) -> None:
    """Raise ValueError for settings of `trajectory_weight` outside their domains."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    refusal = TEMPERATURE.refusal("temperature", temperature)
    if refusal is not None:
        raise ValueError(refusal)
    numbers = list(clip) if isinstance(clip, Sequence | np.ndarray) else []
    known = len(numbers) == 2 and not any(
        isinstance(x, bool | str | jax.core.Tracer) for x in numbers
    )
    if not known or not 0 <= numbers[0] <= numbers[1] <= LARGEST:
        raise ValueError(
            f"clip is {clip!r}; expected two finite numbers, 0 ≤ low ≤ high"
        )


def _segments(ids: Any) -> Array:
    """Integer ids as int32, equal where the ids are equal in their own dtype."""
    host = concrete(ids)
    source = ids if host is None else host
    if not jnp.issubdtype(source.dtype, jnp.integer):
        raise ValueError(f"segment_ids are {source.dtype}; expected integers")
    if host is None or host.dtype.itemsize < 8:
        return jnp.asarray(ids)
    _, numbers = np.unique(host, return_inverse=True)
    return jnp.asarray(numbers.reshape(host.shape).astype(np.int32))


def _aggregate(ratio: Array, segment_ids: Array, mask: Array, mode: str) -> Array:
    """Each segment's sum or mean of `ratio` [..., L], at all of its tokens."""
    length = ratio.shape[-1]

    def one_row(ratio: Array, ids: Array, mask: Array) -> Array:
        # Ids may be any integers: the rank of an id among the sorted ids is its number.
        segments = jnp.searchsorted(jnp.sort(ids), ids)
        total = jax.ops.segment_sum(jnp.where(mask, ratio, 0), segments, length)
        if mode == "mean":
            count = jax.ops.segment_sum(mask.astype(ratio.dtype), segments, length)
            total = total / jnp.maximum(count, 1)
        return total[segments]

    flat = (x.reshape(-1, length) for x in (ratio, segment_ids, mask))
    return jax.vmap(one_row)(*flat).reshape(ratio.shape)
