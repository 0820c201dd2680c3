"""Experts on a mesh: every device has its slice of every expert.

In the notation of the scaling book, gate and up are W[E, D_{fsdp,context}, F_tensor],
down likewise, and x[B_{data,fsdp}, L_context, D]. A device sorts its own tokens by
expert, gathers the layer's matrices over D, and multiplies by its slice of the width
F; the sum over the slices is that of a dense MLP. So no token leaves its device, and no
router, however unbalanced, can overload one. The partitioner cannot shard a grouped
product, and would gather its operands, so `shard_map` runs it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.experts import AXES, Mix, Routing, mixed
from targetsft_jax.models.int8 import SCALE, scale_axes
from targetsft_jax.parallel import rules
from targetsft_jax.parallel.mesh import TOKENS

_TOKEN_AXES = ("data", "fsdp", "context")


def mesh_experts(config: DecoderConfig, mesh: Mesh) -> Mix | None:
    """Layer of experts for a mesh; None for one device, or a model without experts."""
    if not config.num_experts or mesh.size == 1:
        return None

    def sharded(
        config: DecoderConfig, params: Mapping[str, Array], x: Array, is_real: Array
    ) -> tuple[Array, Routing]:
        specs = {
            name: rules.spec(_axes(name), leaf.shape, mesh)
            for name, leaf in params.items()
        }

        def local(
            params: Mapping[str, Array], x: Array, is_real: Array
        ) -> tuple[Array, Routing]:
            gathered = {
                name: leaf
                if name.endswith(SCALE)
                else _gathered(_narrow(leaf, x.dtype), AXES[name], specs[name])
                for name, leaf in params.items()
            }
            y, routing = mixed(config, gathered, x, is_real)
            # Devices that hold all of F have the sum already.
            if specs["down"][1] is not None:
                y = jax.lax.psum(y, specs["down"][1])
            return y, jax.lax.psum(routing, _TOKEN_AXES)

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(specs, P(*TOKENS), P(*TOKENS)),
            out_specs=(P(*TOKENS), P()),
            check_vma=False,
        )(params, x, is_real)

    return sharded


def _axes(name: str) -> tuple[str | None, ...]:
    """Logical axes of a parameter of the layer, or of its scales."""
    matrix = name.removesuffix(SCALE)
    return AXES[name] if matrix == name else scale_axes(AXES[matrix])


def _narrow(leaf: Array, dtype: DTypeLike) -> Array:
    """A matrix as it is gathered: in the compute dtype, or in int8."""
    return leaf if leaf.dtype == jnp.int8 else leaf.astype(dtype)


def _gathered(leaf: Array, names: tuple[str | None, ...], spec: P) -> Array:
    """A matrix with all of D, from the devices that share it."""
    axis = names.index("embed")
    if spec[axis] is None:
        return leaf
    return jax.lax.all_gather(leaf, spec[axis], axis=axis, tiled=True)
