"""The decoder's small parts: projection, norm, rotary embedding, SwiGLU.

Parameters keep their own dtype; each use casts to the compute dtype, so float32
master weights never need a second copy outside.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax.models.config import DecoderConfig


class Projection(nn.Module):
    """`x @ kernel (+ bias)`: [..., D] -> [..., features], in the dtype of x.

    Where its parameters have low-rank ones (see `lora`), their product is added, with
    no sum of matrices: a frozen kernel has no gradient then, and none is formed.
    """

    features: int
    use_bias: bool
    kernel_init: Callable
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = x @ kernel.astype(x.dtype)
        if self.has_variable("params", "lora_a"):
            a, b = (self.get_variable("params", name) for name in ("lora_a", "lora_b"))
            y = y + (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(x.dtype)
        return y


class SwiGLU(nn.Module):
    """`down(silu(gate x) * up x)`: [..., D] -> [..., D]."""

    config: DecoderConfig
    kernel_init: Callable
    output_init: Callable
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def project(features, init, name):
            return Projection(features, False, init, self.param_dtype, name=name)

        wide = self.config.intermediate_size
        gate = project(wide, self.kernel_init, "gate")(x)
        up = project(wide, self.kernel_init, "up")(x)
        down = project(self.config.hidden_size, self.output_init, "down")
        return down(nn.silu(gate) * up)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """`x / rms(x) * scale`, computed in float32: [..., D] -> [..., D], dtype of x.

    See "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    x32 = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
    return (x32 * rms * scale.astype(jnp.float32)).astype(x.dtype)


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
    """Angle per position of each feature pair: [head_dim / 2] float32."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is not None:
        turns = (
            scaling.original_max_position_embeddings * frequencies / (2 * np.pi)
        )  # how often the pair turns over the original context
        band = scaling.high_freq_factor - scaling.low_freq_factor
        keep = np.clip((turns - scaling.low_freq_factor) / band, 0.0, 1.0)
        frequencies = keep * frequencies + (1 - keep) * frequencies / scaling.factor
    return frequencies.astype(np.float32)


def rope_rotation(
    config: DecoderConfig, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each pair's angle: [B, L] int32 -> two [B, L, hd/2] f32."""
    frequencies = jnp.asarray(rope_frequencies(config))
    angles = positions.astype(jnp.float32)[..., None] * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn each head's feature pairs, in float32: [B, L, H, hd] -> same, dtype of x.

    A pair is (feature i, feature i + hd/2), the layout of Hugging Face checkpoints;
    the RoFormer paper (arXiv:2104.09864) pairs neighbours instead.
    """
    cos, sin = (part[:, :, None, :] for part in rotation)  # [B, L, 1, hd/2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
