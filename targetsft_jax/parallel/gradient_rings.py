"""Reduction of gradients along the rings of a TPU torus, one after the other.

The gradient of a kernel W[D_fsdp, F] is a sum over the devices of the fsdp axis, of
which each needs D / fsdp rows. If the axis covers more than one dimension of the torus,
the TPU compiler replaces that reduce-scatter by an all-reduce, which sends twice the
bytes, and a slice. Along one ring it does not:

    ∂W[D, F] {U_{across,ring}}  ->  ∂W[D_across, F] {U_ring}  ->  ∂W[D_{across,ring}, F]

{U_A} marks partial sums over A. Rings of few devices stay as they are: there the
compiler overlaps the reduction with the product.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.parallel import rules, vocabulary
from targetsft_jax.parallel.mesh import platform

LARGEST_PRODUCT = 16
"""Devices of an fsdp axis up to which the compiler overlaps reductions itself."""


def ring_size(mesh: Mesh) -> int:
    """Neighbours on the fsdp axis that differ in one coordinate of the torus only."""
    coordinates = [device.coords for device in mesh.devices[0, :, 0, 0]]
    size = len(coordinates)
    while size > 1:
        ring = zip(*coordinates[:size])
        if len(coordinates) % size == 0 and sum(len(set(x)) > 1 for x in ring) == 1:
            break
        size -= 1
    return size


def reduce_along_rings(
    axes: Mapping[str, Any], mesh: Mesh, dtype: DTypeLike
) -> Callable[[Any], Any] | None:
    """`reduce_in_stages` where the compiler would not reduce along rings itself.

    Args:
        axes, mesh, dtype: see `reduce_in_stages`.

    Returns:
        None if it needs no help: on other platforms, and for few devices.
    """
    if platform(mesh) != "tpu" or mesh.shape["context"] > 1:
        return None
    fsdp = mesh.shape["fsdp"]
    if fsdp <= LARGEST_PRODUCT or (ring := ring_size(mesh)) in (1, fsdp):
        return None
    return reduce_in_stages(axes, mesh, ring, dtype)


def reduce_in_stages(
    axes: Mapping[str, Any], mesh: Mesh, ring: int, dtype: DTypeLike
) -> Callable[[Any], Any]:
    """Return a function of a layer's parameters that shapes their gradients' reduction.

    Its value is the same parameters, kernels in the compute dtype, in which their
    gradients are reduced.

    Args:
        axes: tree of the logical axes of one layer's parameters, each with a leading
            "layers".
        mesh: the (data, fsdp, context, tensor) mesh.
        ring: devices of the second stage, neighbours on the fsdp axis.
        dtype: compute dtype.
    """
    rings = vocabulary.with_groups(mesh, ring)

    def staged(path: Any, leaf: jax.Array) -> jax.Array:
        names: Any = {"params": axes}
        for key in path:
            names = names.get(key.key, {})
        # Adapters have no logical axes; norms and biases are small.
        if path[-1].key != "kernel" or not names:
            return leaf
        spec = rules.spec(tuple(names)[1:], leaf.shape, mesh)
        parts = [("fsdp",) if part == "fsdp" else part for part in spec]
        fsdp = next((n for n, part in enumerate(parts) if "fsdp" in (part or ())), None)
        if fsdp is None:
            return leaf
        stages = []
        for part in ("fsdp_across", ("fsdp_across", "fsdp")):
            parts[fsdp] = part
            stages.append(NamedSharding(rings, P(*parts)))
        return _with_stages(leaf.astype(dtype), stages)

    return lambda params: jax.tree_util.tree_map_with_path(staged, params)


def _with_stages(x: jax.Array, stages: list[NamedSharding]) -> jax.Array:
    """An array whose cotangent is resharded in stages."""

    @jax.custom_vjp
    def identity(x: jax.Array) -> jax.Array:
        return x

    def forward(x: jax.Array) -> tuple[jax.Array, None]:
        return x, None

    def backward(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
        for stage in stages:
            cotangent = jax.lax.with_sharding_constraint(cotangent, stage)
        return (cotangent,)

    identity.defvjp(forward, backward)
    return identity(x)
