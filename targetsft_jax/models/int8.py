"""Int8 projections of frozen models: half the bytes of bfloat16, integer products.

Weights have one scale per output channel, activations one per token:

    Ŵ = round(W / s_W),  s_W[f] = max_d |W[d, f]| / 127
    x̂ = round(x / s_x),  s_x[t] = max_d |x[t, d]| / 127
    y = s_x s_W (x̂ · Ŵ),  the product in int32, exactly

Embedding, head, norms, biases and routers keep their dtype. Matrices of experts are
int8 in memory and on the network, and multiplied in the dtype of the activations.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from targetsft_jax.parallel import rules

SCALE = "_scale"
"""Suffix of the name of a matrix's scales, a sibling in the parameter tree."""

_LARGEST = 127

MATRICES = ("gate", "up", "down")
"""Names of the matrices of experts."""

Names = tuple[str | None, ...]


def quantised(kernel: Array) -> tuple[Array, Array]:
    """Int8 matrices and their scales: [..., D, F] -> [..., D, F] int8, [..., F] f32."""
    return _rounded(kernel, axis=-2)


def int8_product(x: Array, kernel: Array, scale: Array) -> Array:
    """``x @ kernel`` with activations in int8: [..., D] -> [..., F], dtype of x.

    Not differentiable in x: frozen models have no gradient.

    Args:
        x: [..., D], any float dtype.
        kernel: [D, F] int8.
        scale: [F] f32, of the output channels.
    """
    rounded, of_tokens = _rounded(x, axis=-1)
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    sums = jax.lax.dot_general(
        rounded, kernel, contract, preferred_element_type=jnp.int32
    )
    y = sums.astype(jnp.float32) * (of_tokens[..., None] * scale)
    return y.astype(x.dtype)


def dequantised(kernel: Array, scale: Array, dtype: DTypeLike) -> Array:
    """Matrices [..., D, F] of int8 matrices and their scales [..., F]."""
    return (kernel.astype(jnp.float32) * scale[..., None, :]).astype(dtype)


def int8_params(
    params: dict[str, Any], axes: dict[str, Any], mesh: Mesh
) -> dict[str, Any]:
    """Parameters with int8 matrices in place of the others, which are deleted.

    One stacked matrix of all layers is quantised at a time, so that beside the model
    only that one is in memory twice.

    Args:
        params: the tree of `decoder.init_params`, on the mesh.
        axes: its `decoder.logical_axes`.
        mesh: device mesh.
    """
    quantise = quantiser(axes, mesh)
    return with_scales(jax.tree_util.tree_map_with_path(quantise, params))


def quantiser(axes: dict[str, Any], mesh: Mesh) -> Callable[[Any, Array], Any]:
    """Function of a path and a parameter: an int8 matrix and its scales, or as it is.

    The given matrix is deleted. `with_scales` makes a tree of int8 parameters of the
    results.

    Args:
        axes, mesh: see `int8_params`.
    """

    def quantise(path: Any, leaf: Array) -> Array | tuple[Array, Array]:
        keys = [entry.key for entry in path]
        if keys[0] != "layers" or not _is_matrix(keys[-1], keys[-2] == "experts"):
            return leaf
        names: Any = axes
        for key in keys:
            names = names[key]
        shape = jax.eval_shape(quantised, leaf)[1].shape
        scales = NamedSharding(mesh, rules.spec(scale_axes(names), shape, mesh))
        run = jax.jit(quantised, out_shardings=(leaf.sharding, scales))
        pair: tuple[Array, Array] = jax.block_until_ready(run(leaf))
        leaf.delete()
        return pair

    return quantise


def with_scales(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with pairs of matrix and scales as siblings of their own."""
    return {**params, "layers": _map_matrices(lambda pair: pair, params["layers"])}


def int8_shapes(shapes: dict[str, Any]) -> dict[str, Any]:
    """Shapes and dtypes of `int8_params`, from those of the parameters."""

    def pair(kernel: Any) -> tuple[Any, Any]:
        *lead, _, features = kernel.shape
        return (
            jax.ShapeDtypeStruct(kernel.shape, jnp.int8),
            jax.ShapeDtypeStruct((*lead, features), jnp.float32),
        )

    return {**shapes, "layers": _map_matrices(pair, shapes["layers"])}


def int8_axes(axes: dict[str, Any]) -> dict[str, Any]:
    """Logical axes of `int8_params`, from those of the parameters."""
    layers = _map_matrices(lambda names: (names, scale_axes(names)), axes["layers"])
    return {**axes, "layers": layers}


def scale_axes(names: Names) -> Names:
    """Axes of the scales of a matrix; the model width is not split, as in norms."""
    lead, last = names[:-2], names[-1]
    return (*lead, None if last == "embed" else last)


def _rounded(x: Array, axis: int) -> tuple[Array, Array]:
    """x / scale rounded to int8, and the scales: those of the largest along an axis."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.where(largest == 0, 1.0, largest / _LARGEST)
    return jnp.round(x / scale).astype(jnp.int8), jnp.squeeze(scale, axis)


def _map_matrices(
    split: Callable[[Any], tuple[Any, Any]], tree: dict[str, Any]
) -> dict[str, Any]:
    """A tree of layers with the result of `split`, a matrix and its scales, for each.

    Args:
        split: function of a matrix.
        tree: parameters of the layers, or a tree of the same names.
    """
    is_experts = "router" in tree
    result: dict[str, Any] = {}
    for name, part in tree.items():
        if isinstance(part, dict):
            result[name] = _map_matrices(split, part)
        elif _is_matrix(name, is_experts):
            result[name], result[name + SCALE] = split(part)
        else:
            result[name] = part
    return result


def _is_matrix(name: str, is_experts: bool) -> bool:
    return name == "kernel" or (is_experts and name in MATRICES)
