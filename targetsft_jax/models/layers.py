"""Layers of the decoder: projection, RMS norm, gated MLP, soft cap.

Parameters are cast to the compute dtype on use, so that float32 master weights need no
second copy.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.int8 import SCALE, int8_product
from targetsft_jax.models.products import Multiply
from targetsft_jax.models.remat import MLP
from targetsft_jax.models.unstacked import GATE_UP

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu_tanh": partial(nn.gelu, approximate=True),
}


KEY_IMPL = "threefry2x32"
"""Generator of dropout masks: its numbers do not depend on the sharding."""


class Projection(nn.Module):
    """`x @ kernel (+ bias)`: [..., D] -> [..., features], in the dtype of x.

    Adapters of the kernel (see `lora`) add the product (x @ A) @ B. The matrices are
    never summed, so that a frozen kernel needs no gradient. Keys of the rows set
    random elements of the adapters' x to 0, independently for each token and module.
    With scales beside it (see `int8`), the kernel is int8, and so is the product.
    """

    features: int
    use_bias: bool
    kernel_init: Initializer
    param_dtype: jnp.dtype
    multiply: Multiply = jnp.matmul

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        multiply = self.multiply
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.has_variable("params", "kernel" + SCALE):
            scale: jax.Array = self.get_variable("params", "kernel" + SCALE)
            y = int8_product(x, kernel, scale)
        else:
            y = multiply(x, kernel.astype(x.dtype))
        if self.has_variable("params", "lora_a"):
            a: jax.Array = self.get_variable("params", "lora_a")
            b: jax.Array = self.get_variable("params", "lora_b")
            low_rank = multiply(self._dropped(x), a.astype(x.dtype))
            y = y + multiply(low_rank, b.astype(x.dtype))
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(x.dtype)
        return y

    def _dropped(self, x: jax.Array) -> jax.Array:
        """The adapters' input [B, L, D], with dropout in a train step."""
        if not self.has_variable("params", "lora_keys"):
            return x
        rows: jax.Array = self.get_variable("params", "lora_keys")
        threshold: jax.Array = self.get_variable("params", "lora_threshold")
        slots: jax.Array = self.get_variable("params", "lora_slots")

        def row_bits(key: jax.Array) -> jax.Array:
            keys = jax.vmap(lambda slot: jax.random.fold_in(key, slot))(slots)
            return jax.vmap(lambda key: jax.random.bits(key, x.shape[2:]))(keys)

        bits = jax.vmap(row_bits)(jax.random.wrap_key_data(rows, impl=KEY_IMPL))
        return jnp.where(bits < threshold, 0, x)


class GatedMLP(nn.Module):
    """`down(activation(gate x) * up x)`: [..., D] -> [..., D]."""

    config: DecoderConfig
    kernel_init: Initializer
    output_init: Initializer
    param_dtype: jnp.dtype
    multiply: Multiply = jnp.matmul

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def project(features: int, init: Initializer, name: str) -> Projection:
            return Projection(
                features, False, init, self.param_dtype, self.multiply, name=name
            )

        width = self.config.intermediate_size
        if self.has_variable("params", GATE_UP):
            joined = project(2 * width, self.kernel_init, GATE_UP)(x)
            gate, up = joined[..., :width], joined[..., width:]
        else:
            gate = project(width, self.kernel_init, "gate")(x)
            up = project(width, self.kernel_init, "up")(x)
            gate, up = checkpoint_name((gate, up), MLP)
        down = project(self.config.hidden_size, self.output_init, "down")
        return down(ACTIVATIONS[self.config.activation](gate) * up)


def rms_norm(
    x: jax.Array, scale: jax.Array, eps: float, unit_offset: bool = False
) -> jax.Array:
    """`x / rms(x) * scale`, computed in float32: [..., D] -> [..., D], dtype of x.

    `unit_offset` multiplies by `1 + scale` instead.
    See "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    x32, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
    return (x32 * rms * (1 + scale if unit_offset else scale)).astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, bounded by ±cap; None returns x."""
    return x if cap is None else cap * jnp.tanh(x / cap)
