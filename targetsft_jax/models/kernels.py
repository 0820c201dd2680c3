"""Attention kernels: which there are, what each can do, and which one to take.

Every kernel has one signature, (query [B, T, H, d], key and value [B, T, K, d],
segment_ids [B, T] int32, *, window, scale, softcap) -> [B, T, H, d], and one meaning:
causal, never across segments, and no further back than the window (a token and the
window - 1 before it; None for all). Scores are multiplied by the scale (d ** -0.5 when
None) and then capped, cap * tanh(score / cap). A kernel that cannot do what is asked is
refused by name; none is ever taken silently in the place of another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from targetsft_jax.models.attention import attend
from targetsft_jax.models.config import DecoderConfig

Attend = Callable[..., jax.Array]


def xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """The portable path, on every platform; memory grows with T²."""
    return attend(
        query,
        key,
        value,
        segment_ids=segment_ids,
        key_segment_ids=segment_ids,
        start=jnp.zeros((), jnp.int32),
        window=window,
        scale=scale,
        softcap=softcap,
    )


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """TPU: jax's splash attention, block-sparse; memory grows with T."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    length, heads, size = query.shape[1:]
    block = _block(length, 512)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    if window is None:
        seen = kernels.CausalMask((length, length))
    else:
        seen = kernels.LocalMask((length, length), (window - 1, 0), 0)
    mask = kernels.MultiHeadMask([seen] * heads)
    # Made while tracing, its tables would be tracers of that trace.
    with jax.ensure_compile_time_eval():
        run = kernels.make_splash_mha(
            mask,
            head_shards=1,
            q_seq_shards=1,
            block_sizes=sizes,
            attn_logits_soft_cap=softcap,
            interpret=interpret,
        )

    def one(query, key, value, segments):
        return run(query, key, value, kernels.SegmentIds(segments, segments))

    # The kernel does not scale, and wants heads before the sequence.
    scale = size**-0.5 if scale is None else scale
    scaled = (query * scale).astype(query.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (scaled, key, value))
    return jnp.swapaxes(jax.vmap(one)(q, k, v, segment_ids), 1, 2)


def cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: None = None,
    scale: float | None = None,
    softcap: None = None,
) -> jax.Array:
    """GPU: cuDNN's flash attention; the segments are a mask [B, 1, T, T]."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=same,
        scale=scale,
        is_causal=True,
        implementation="cudnn",
    )


def pallas_gpu(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: None = None,
    scale: float | None = None,
    softcap: None = None,
    interpret: bool = False,
) -> jax.Array:
    """GPU: jax's Pallas flash attention; keys and values are repeated for each head."""
    from jax.experimental.pallas.ops.gpu import attention as kernels

    length, heads, size = query.shape[1:]
    block = _block(length, 64)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_k=block,
        block_q_dkv=min(block, 32),
        block_kv_dkv=min(block, 32),
        block_q_dq=min(block, 32),
        block_kv_dq=min(block, 32),
    )
    repeat = heads // key.shape[2]
    key, value = (jnp.repeat(x, repeat, axis=2) for x in (key, value))
    return kernels.mha(
        query,
        key,
        value,
        segment_ids,
        sm_scale=size**-0.5 if scale is None else scale,
        causal=True,
        block_sizes=sizes,
        interpret=interpret,
    )


@dataclass(frozen=True)
class Kernel:
    """An attention kernel and its limits.

    Attributes:
        attend: the function.
        platforms: jax's names of the platforms that it runs on; empty for all.
        limits: (config, length, dtype) -> why it cannot, or "".
    """

    attend: Attend
    platforms: tuple[str, ...]
    limits: Callable[[DecoderConfig, int, jnp.dtype], str]


def _no_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    return ""


def _plain_only(config: DecoderConfig, length: int) -> str:
    """Why a kernel cannot that knows neither windows nor caps."""
    if config.attn_logit_softcap is not None:
        return f"it has no soft cap of attention scores ({config.attn_logit_softcap})"
    if config.sliding_window is not None and config.sliding_window < length:
        return f"it has no sliding window ({config.sliding_window} tokens)"
    return ""


def _splash_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if length % 128:
        return f"rows of {length} tokens are no multiple of 128"
    if config.head_dim % 64:
        return f"head_dim {config.head_dim} is no multiple of 64"
    return ""


def _cudnn_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not {dtype}"
    if config.head_dim % 8 or config.head_dim > 128:
        return f"head_dim {config.head_dim} is no multiple of 8 up to 128"
    if length % 64:
        return f"rows of {length} tokens are no multiple of 64"
    return _plain_only(config, length)


def _pallas_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if length % 32:
        return f"rows of {length} tokens are no multiple of 32"
    if config.head_dim not in (16, 32, 64, 128):
        return f"head_dim {config.head_dim} is not 16, 32, 64 or 128"
    return _plain_only(config, length)


# On a platform, the first that can is what `auto` takes.
KERNELS: Mapping[str, Kernel] = {
    "splash": Kernel(splash, ("tpu",), _splash_limits),
    "cudnn": Kernel(cudnn, ("gpu", "cuda"), _cudnn_limits),
    "pallas_gpu": Kernel(pallas_gpu, ("gpu", "cuda"), _pallas_limits),
    "xla": Kernel(xla, (), _no_limits),
}
CHOICES = ("auto", *KERNELS)


def choose(name: str, platform: str, config: DecoderConfig, length: int, dtype) -> str:
    """The kernel to take.

    Args:
        name: one of `CHOICES`; "auto" is the fastest that can.
        platform: of the devices: "tpu", "gpu" or "cpu".
        config: the decoder; length: tokens in a row; dtype: of its forward pass.

    Raises:
        ValueError: what was asked for cannot; names why, and the one that can.
    """
    if name not in CHOICES:
        raise ValueError(
            f"train.attention is {name!r}; expected one of {', '.join(CHOICES)}"
        )
    dtype = jnp.dtype(dtype)

    def refusal(kernel: Kernel) -> str:
        if kernel.platforms and platform not in kernel.platforms:
            return f"it runs on {kernel.platforms[0]} and the devices are {platform}"
        return kernel.limits(config, length, dtype)

    able = next(key for key, kernel in KERNELS.items() if not refusal(kernel))
    if name == "auto":
        return able
    why = refusal(KERNELS[name])
    if why:
        raise ValueError(
            f"train.attention is {name!r}, which cannot serve this {config.model_type} "
            f"model: {why}. Use {able!r}, or 'auto'"
        )
    return name


def kv_repeats(config: DecoderConfig, parts: int) -> int:
    """How often key and value heads are repeated so that `parts` devices share them.

    Raises:
        ValueError: the query heads cannot be shared by so many.
    """
    if config.num_heads % parts:
        raise ValueError(
            f"{config.num_heads} attention heads do not divide over mesh.tensor = "
            f"{parts}, which attention kernels need; change mesh.tensor, or set "
            "train.attention to 'xla'"
        )
    return parts // math.gcd(config.num_kv_heads, parts)


def _block(length: int, largest: int) -> int:
    """The largest power of two that divides the length, up to `largest`."""
    return min(largest, length & -length)
