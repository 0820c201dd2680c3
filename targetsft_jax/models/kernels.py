"""Attention kernels: the registry, the limits of each kernel, and the choice of one.

All kernels have one signature, `SelfAttention`, and compute the same function: causal
attention within segments and, with a window, to the last `window` tokens only. A kernel
that does not support a model is refused by name, and never replaced silently.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from targetsft_jax.models.attention import SelfAttention, attend, require_plain
from targetsft_jax.models.blockwise import blockwise
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.cudnn_packed import cudnn_packed
from targetsft_jax.models.query_share import MakeQueryShare, xla_share
from targetsft_jax.models.remat import ATTENTION
from targetsft_jax.models.splash import block_size, splash, splash_share


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
    """Portable attention, for every platform; memory grows with T²."""
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


def cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Flash attention of cuDNN for GPU; segments become a mask [B, 1, T, T].

    Raises:
        ValueError: a window or a soft cap, which it does not support.
    """
    require_plain("cudnn", window, softcap)
    same_segment = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=same_segment,
        scale=scale,
        is_causal=True,
        implementation="cudnn",
    )
    return checkpoint_name(mixed, ATTENTION)


def pallas_gpu(
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
    """Pallas flash attention of jax for GPU; keys and values are repeated per head.

    Raises:
        ValueError: a window or a soft cap, which it does not support.
    """
    require_plain("pallas_gpu", window, softcap)
    from jax.experimental.pallas.ops.gpu import attention as kernels

    length, heads, size = query.shape[1:]
    block = block_size(length, 64)
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
    mixed = kernels.mha(
        query,
        key,
        value,
        segment_ids,
        sm_scale=size**-0.5 if scale is None else scale,
        causal=True,
        block_sizes=sizes,
        interpret=interpret,
    )
    return checkpoint_name(mixed, ATTENTION)


@dataclass(frozen=True)
class Kernel:
    """Attention kernel and its limits.

    Attributes:
        attend: the function.
        platforms: platforms that it runs on, by jax's names; empty for all.
        limits: (config, length, dtype) -> the limit that is exceeded, or "".
        share: the same attention where devices share the tokens of a row; None: it
            cannot.
        automatic: False if `auto` never chooses it.
    """

    attend: SelfAttention
    platforms: tuple[str, ...]
    limits: Callable[[DecoderConfig, int, jnp.dtype], str]
    share: MakeQueryShare | None = None
    automatic: bool = True


def _no_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    return ""


def _plain_only(config: DecoderConfig, length: int) -> str:
    """Limits of a kernel with neither windows nor soft caps."""
    if config.attn_logit_softcap is not None:
        return f"it has no soft cap of attention scores ({config.attn_logit_softcap})"
    if config.sliding_window is not None and config.sliding_window < length:
        return f"it has no sliding window ({config.sliding_window} tokens)"
    return ""


def _splash_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if length % 128:
        return f"sequence length {length} is not a multiple of 128"
    if config.head_dim % 64:
        return f"head_dim {config.head_dim} is not a multiple of 64"
    return ""


def _cudnn_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not {dtype}"
    if config.head_dim % 8 or config.head_dim > 128:
        return f"head_dim {config.head_dim} is not a multiple of 8 up to 128"
    if length % 64:
        return f"sequence length {length} is not a multiple of 64"
    return _plain_only(config, length)


def _pallas_limits(config: DecoderConfig, length: int, dtype: jnp.dtype) -> str:
    if length % 32:
        return f"sequence length {length} is not a multiple of 32"
    if config.head_dim not in (16, 32, 64, 128):
        return f"head_dim {config.head_dim} is not 16, 32, 64 or 128"
    return _plain_only(config, length)


# In order of preference: `auto` is the first that supports model and platform.
KERNELS: Mapping[str, Kernel] = {
    "splash": Kernel(splash, ("tpu",), _splash_limits, splash_share),
    "cudnn": Kernel(cudnn, ("gpu", "cuda"), _cudnn_limits),
    "cudnn_packed": Kernel(
        cudnn_packed, ("gpu", "cuda"), _cudnn_limits, automatic=False
    ),
    "pallas_gpu": Kernel(pallas_gpu, ("gpu", "cuda"), _pallas_limits),
    "blockwise": Kernel(blockwise, ("cpu",), _no_limits),
    "xla": Kernel(xla, (), _no_limits, xla_share),
}
CHOICES = ("auto", *KERNELS)


def choose(
    name: str,
    platform: str,
    config: DecoderConfig,
    length: int,
    dtype: DTypeLike,
    context: int = 1,
) -> str:
    """Name of the kernel for a model on a platform.

    Args:
        name: one of `CHOICES`; "auto" is the fastest that supports the model.
        platform: "tpu", "gpu" or "cpu".
        config: the decoder; length: tokens per row; dtype: of its forward pass.
        context: devices that share the tokens of a row.

    Raises:
        ValueError: the requested kernel does not support the model; the message names
            the limit and a kernel that does.
    """
    if name not in CHOICES:
        raise ValueError(
            f"train.attention is {name!r}; expected one of {', '.join(CHOICES)}"
        )
    compute_dtype = jnp.dtype(dtype)

    def limit(kernel: Kernel) -> str:
        if kernel.platforms and platform not in kernel.platforms:
            return f"it runs on {kernel.platforms[0]} and the devices are {platform}"
        if context == 1:
            return kernel.limits(config, length, compute_dtype)
        if kernel.share is None:
            return f"it needs all tokens of a row, and mesh.context is {context}"
        exceeded = kernel.limits(config, length // (2 * context), compute_dtype)
        return exceeded and f"in one of 2 x mesh.context parts of a row, {exceeded}"

    supported = next(
        key for key, kernel in KERNELS.items() if kernel.automatic and not limit(kernel)
    )
    if name == "auto":
        return supported
    exceeded = limit(KERNELS[name])
    if exceeded:
        raise ValueError(
            f"train.attention is {name!r}, which does not support this "
            f"{config.model_type} model: {exceeded}. Use {supported!r}, or 'auto'"
        )
    return name


def kv_repeats(config: DecoderConfig, parts: int, context: int = 1) -> int:
    """Repetitions of key and value heads with which they divide over `parts` devices.

    Args:
        config: the decoder.
        parts: size of the tensor axis; context: of the context axis.

    Raises:
        ValueError: the query heads do not divide over so many devices.
    """
    if config.num_heads % parts:
        portable = ", or set train.attention to 'xla'" if context == 1 else ""
        raise ValueError(
            f"{config.num_heads} attention heads do not divide over mesh.tensor = "
            f"{parts}, which attention kernels need; change mesh.tensor{portable}"
        )
    return parts // math.gcd(config.num_kv_heads, parts)
