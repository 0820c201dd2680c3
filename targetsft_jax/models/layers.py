"""The decoder's small parts: projection, norm, gated MLP, soft cap.

Parameters keep their own dtype; each use casts to the compute dtype, so float32
master weights never need a second copy outside.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from targetsft_jax.models.config import DecoderConfig

_ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}


class Projection(nn.Module):
    """`x @ kernel (+ bias)`: [..., D] -> [..., features], in the dtype of x."""

    features: int
    use_bias: bool
    kernel_init: Callable
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = x @ kernel.astype(x.dtype)
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(x.dtype)
        return y


class GatedMLP(nn.Module):
    """`down(activation(gate x) * up x)`: [..., D] -> [..., D]."""

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
        return down(_ACTIVATIONS[self.config.activation](gate) * up)


def rms_norm(
    x: jax.Array, scale: jax.Array, eps: float, unit_offset: bool = False
) -> jax.Array:
    """`x / rms(x) * scale`, computed in float32: [..., D] -> [..., D], dtype of x.

    With `unit_offset` it is `x / rms(x) * (1 + scale)`.
    See "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    x32, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
    return (x32 * rms * (1 + scale if unit_offset else scale)).astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, between -cap and cap; x itself when None."""
    return x if cap is None else cap * jnp.tanh(x / cap)
