"""cuDNN attention over packed rows by offsets of segments, without a mask [T, T].

cuDNN reads keys from where each segment begins to where it ends, so memory grows with
T: at 32k tokens, 28 heads and 4 of keys, a row and layer take 1.5 GiB, and 4.4 with the
mask of `kernels.cudnn`; at 4k tokens they take more than with it. The function of jax
is private, and this kernel has not run on a GPU, so `auto` does not choose it:
`pytest tests/models/test_cudnn_packed.py` compares it with the portable attention where
there is a Hopper or later GPU.
"""

import inspect
import re
from types import ModuleType

import jax
import jax.numpy as jnp

from targetsft_jax.models.attention import require_plain

MOST_SEGMENTS = 64
"""Segments of a row, padding included. The statistics of cuDNN take this many times
[heads, T] float32 per row."""


def cudnn_packed(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Flash attention of cuDNN for Hopper and later GPUs; segments by their offsets.

    Tokens of a segment are neighbours. A row of more than `MOST_SEGMENTS` segments is
    NaN, so that its step is skipped and reported.

    Raises:
        ValueError: a window or a soft cap, an older GPU, or a version of jax whose
            private function is not known.
    """
    require_plain("cudnn_packed", window, softcap)
    fused = _private_module()
    if not fused.check_compute_capability("9.0"):
        raise ValueError(
            "attention kernel cudnn_packed needs a GPU of compute capability 9.0 "
            "(Hopper) or later; set train.attention to 'cudnn'"
        )
    if _version() < (0, 12):
        # Until then jax computes the offsets of keys with the heads of the queries.
        repeats = query.shape[2] // key.shape[2]
        key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
    offsets, lengths, count = segment_offsets(segment_ids)
    output = fused.dot_product_attention(
        query,
        key,
        value,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        mask_type=fused.MaskType.PADDING_CAUSAL,
    )
    complete = (count <= MOST_SEGMENTS)[:, None, None, None]
    return jnp.where(complete, output, jnp.nan)


def segment_offsets(
    segment_ids: jax.Array, most: int = MOST_SEGMENTS
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """First token and length of each segment of a row, as cuDNN reads them.

    Args:
        segment_ids: [B, T] int32; a run of equal ids is a segment.
        most: M, the largest number of segments.

    Returns:
        Offsets [B, M + 1] and lengths [B, M] int32, −1 where there is no segment, and
        the number of segments [B] int32, which may be larger than M.
    """
    length = segment_ids.shape[1]
    is_first = jnp.pad(
        segment_ids[:, 1:] != segment_ids[:, :-1],
        ((0, 0), (1, 0)),
        constant_values=True,
    )
    # The end of the row closes the last segment.
    starts = jax.vmap(
        lambda row: jnp.nonzero(row, size=most + 1, fill_value=length)[0]
    )(is_first).astype(jnp.int32)
    lengths = starts[:, 1:] - starts[:, :-1]
    # The last offset is beyond the segments that have a length.
    offsets = jnp.where(starts < length, starts, -1).at[:, -1].set(-1)
    lengths = jnp.where(lengths > 0, lengths, -1)
    return offsets, lengths, is_first.sum(axis=1, dtype=jnp.int32)


def _private_module() -> ModuleType:
    """The module of jax, if it is as in the versions that this file was written for."""
    arguments: set[str] = set()
    if (0, 10) <= _version() < (0, 13):
        from jax._src.cudnn import fused_attention_stablehlo as module

        arguments = set(inspect.signature(module.dot_product_attention).parameters)
    if {"q_offsets", "kv_offsets", "q_seqlen", "mask_type"} <= arguments:
        return module
    raise ValueError(
        f"attention kernel cudnn_packed calls a private function of jax 0.10 to 0.12, "
        f"and this is jax {jax.__version__}; set train.attention to 'cudnn'"
    )


def _version() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", jax.__version__)[:2]))
