"""Importance weights of trajectories (iw-SFT), per segment of a packed row."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.rows import compute_dtype

MODES = ("mean", "sum", "token")


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
        temperature: factor on the aggregated log-ratio.
        clip: smallest and largest weight; applied in log space, so that a product
            over a long trajectory cannot overflow.
        loss_mask: [..., L] bool; tokens outside it (prompt, padding) are excluded
            from the aggregate. None: all tokens count.

    Returns:
        Weights [..., L] float32 (float64 for float64 input), constant in θ, the same
        at all tokens of a trajectory.

    See *Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be
    improved)* (https://arxiv.org/abs/2507.12856).

    Raises:
        ValueError: an unknown mode, a clip that is not an ordered pair ≥ 0, or shapes
            that differ.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    low, high = clip
    if not 0 <= low <= high:
        raise ValueError(f"clip is {clip!r}; expected 0 ≤ low ≤ high")
    logprob, reference_logprob = jnp.asarray(logprob), jnp.asarray(reference_logprob)
    others = (reference_logprob, segment_ids, loss_mask)
    shapes = [jnp.shape(x) for x in others if x is not None]
    if any(shape != logprob.shape for shape in shapes):
        raise ValueError(
            f"logprob is {logprob.shape}, but the reference, the segments and the mask "
            f"are {shapes}: expected one entry for each token"
        )
    # Widened first: a bfloat16 sum over a trajectory has no correct digits.
    dtype = compute_dtype(logprob)
    ratio = stop_gradient(logprob.astype(dtype) - reference_logprob.astype(dtype))
    if mode != "token":
        mask = jnp.ones(ratio.shape, bool) if loss_mask is None else loss_mask
        ratio = _aggregate(ratio, jnp.asarray(segment_ids), jnp.asarray(mask), mode)
    log_weight = temperature * ratio
    floor = jnp.log(jnp.asarray(low, ratio.dtype))
    ceiling = jnp.log(jnp.asarray(high, ratio.dtype))
    return jnp.exp(jnp.clip(log_weight, floor, ceiling))


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
