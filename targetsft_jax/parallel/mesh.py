"""The device mesh (data, fsdp, context, tensor), and the sharding of batches on it.

In the notation of the scaling book ("How to Scale Your Model"), where a subscript names
the mesh axes that an array axis is sharded over: a batch is X[B_{data,fsdp},
L_context], parameters are W[D_{fsdp,context}, F_tensor] (see `rules`), and what has no
subscript is replicated.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel.zigzag import zigzag_slots

AXES = ("data", "fsdp", "context", "tensor")

ROW_AXES = ("data", "fsdp")
"""Mesh axes that the rows of a batch are sharded over."""

TOKENS = P(ROW_AXES, "context")
"""Partition of a batch: [B_{data,fsdp}, L_context]."""


def mesh_shape(
    devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1, *, context: int = 1
) -> tuple[int, ...]:
    """Sizes of the axes, in the order of `AXES`, for a number of devices.

    Args:
        devices: number of devices.
        data, fsdp, tensor, context: sizes; at most one may be −1, for all remaining
            devices.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, context, tensor)))
    invalid = [k for k, v in sizes.items() if v < 1 and v != -1]
    remaining = [k for k, v in sizes.items() if v == -1]
    if invalid or len(remaining) > 1:
        raise ValueError(
            f"mesh is {sizes}; expected positive sizes, and -1 (all remaining "
            "devices) at most once"
        )
    fixed = math.prod(v for v in sizes.values() if v != -1)
    if devices % fixed or (not remaining and fixed != devices):
        raise ValueError(
            f"mesh {sizes} needs {'a multiple of ' if remaining else ''}{fixed} "
            f"devices; found {devices}. Change mesh.data, mesh.fsdp, mesh.context or "
            "mesh.tensor"
        )
    if remaining:
        sizes[remaining[0]] = devices // fixed
    return tuple(sizes.values())


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
    *,
    context: int = 1,
) -> Mesh:
    """A (data, fsdp, context, tensor) mesh over the devices.

    The slices of a multi-slice TPU are laid out along the data axis, the only one whose
    collectives may cross the network between slices.

    Args:
        data, fsdp, tensor, context: as in `mesh_shape`.
        devices: None for all of `jax.devices()`.

    Raises:
        ValueError: the sizes do not fit the devices, or their slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(len(devices), data, fsdp, tensor, context=context)
    on_tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if on_tpu and shape[0] % slices:
        raise ValueError(
            f"mesh.data is {shape[0]}; expected a multiple of {slices}, the number of "
            "TPU slices, since only the data axis may cross between slices"
        )
    if not on_tpu:
        grid = np.asarray(devices).reshape(shape)
    elif slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]),
            (slices, *[1] * (len(shape) - 1)),
            devices,
            allow_split_physical_axes=True,
        )
    else:
        # An axis may be part of a torus dimension, such as 64 x 4 on 16 x 16.
        grid = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform(mesh: Mesh) -> str:
    """Platform of the mesh's devices: "cpu", "gpu" or "tpu".

    It may differ from jax's default backend when a step is compiled for other devices.
    """
    return mesh.devices.flat[0].platform


def row_shards(mesh: Mesh) -> int:
    """Number of shards of a batch's rows: the size of data × fsdp."""
    return math.prod(mesh.shape[axis] for axis in ROW_AXES)


def token_shards(mesh: Mesh) -> int:
    """Number of shards of a batch's tokens: the size of data × fsdp × context."""
    return row_shards(mesh) * mesh.shape["context"]


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array with a full copy on every device."""
    return NamedSharding(mesh, P())


def rows_over(mesh: Mesh) -> NamedSharding:
    """Sharding [B_{data,fsdp,context}] of rows that are computed on one device each."""
    return NamedSharding(mesh, P((*ROW_AXES, "context")))


def tokens_over(mesh: Mesh, lead: int = 0) -> NamedSharding:
    """Sharding [..., B_{data,fsdp}, L_context] with `lead` axes before the rows."""
    return NamedSharding(mesh, P(*[None] * lead, *TOKENS))


def take_tokens(x: jax.Array, index: jax.Array, mesh: Mesh) -> jax.Array:
    """Take positions of each row; rows stay on their device, which needs no other.

    Args:
        x: [B, K, D].
        index: [B, L] int, 0 to K − 1.
        mesh: the device mesh, with a context of 1.

    Returns:
        [B, L, D].
    """
    taken = jnp.take_along_axis(x, index[..., None], axis=1)
    return jax.lax.with_sharding_constraint(taken, tokens_over(mesh))


def put_rows(
    batch: Mapping[str, np.ndarray], mesh: Mesh, lead: int = 0
) -> dict[str, jax.Array]:
    """Put a batch on the mesh as [..., B_{data,fsdp}, L_context].

    Each device receives its rows only, and of these its tokens, if rows are shared
    (context): then the tokens of a row are in zig-zag order (see `zigzag`).

    Args:
        batch: arrays [..., B, L] or [..., B, L, K], complete in every process.
        mesh: the device mesh.
        lead: number of axes before the rows.

    Raises:
        ValueError: the rows cannot be shared.
    """
    sharding, context = tokens_over(mesh, lead), mesh.shape["context"]
    if context > 1:
        batch = {
            k: np.take(x, zigzag_slots(x.shape[lead + 1], context), axis=lead + 1)
            for k, x in batch.items()
        }
    return {
        name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
        for name, x in batch.items()
    }
