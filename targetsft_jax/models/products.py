"""Products of activations with weights, whose gradients run fast on a CPU.

XLA's products on a CPU are fastest where both operands are plain matrices in memory.
Autodiff's gradient of the weights contracts [B, L, D] with a cotangent [B, L, F] that
XLA fuses with its transposition, in one loop without vector instructions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.lax import optimization_barrier

Multiply = Callable[[Array, Array], Array]
"""Activations [..., D] and a weight [D, F] in their dtype -> [..., F]."""


def multiply_on(platform: str, devices: int = 1) -> Multiply:
    """The fastest product on a platform.

    Args:
        platform: "cpu", "gpu" or "tpu".
        devices: devices of the mesh. On several, the barriers of the flat product would
            make the partitioner gather a weight twice.
    """
    is_flat = platform == "cpu" and devices == 1
    return flat_product if is_flat else jnp.matmul


@jax.custom_vjp
def flat_product(x: Array, kernel: Array) -> Array:
    """`x @ kernel` over the flattened tokens: [..., D] and [D, F] -> [..., F]."""
    return _product(x, kernel)


def _product(x: Array, kernel: Array) -> Array:
    flat = x.reshape(-1, x.shape[-1]) @ kernel
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def _forward(x: Any, kernel: Any) -> tuple[Array, tuple[Array | None, Array | None]]:
    # A frozen kernel has no gradient, and its input need not be saved.
    saved = x.value if kernel.perturbed else None, kernel.value if x.perturbed else None
    return _product(x.value, kernel.value), saved


def _backward(
    saved: tuple[Array | None, Array | None], d_output: Array
) -> tuple[Array | None, Array | None]:
    x, kernel = saved
    if isinstance(d_output, SymbolicZero):
        d_output = jnp.zeros(d_output.shape, d_output.dtype)
    # Once in memory, it serves both products.
    flat = optimization_barrier(d_output.reshape(-1, d_output.shape[-1]))
    d_x = d_kernel = None
    if kernel is not None:
        d_x = (flat @ kernel.T).reshape(*d_output.shape[:-1], kernel.shape[0])
    if x is not None:
        d_kernel = optimization_barrier(x.reshape(-1, x.shape[-1])).T @ flat
    return d_x, d_kernel


flat_product.defvjp(_forward, _backward, symbolic_zeros=True)
