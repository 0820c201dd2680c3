"""The device mesh: three named axes, and how a batch lies on them."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

ROW_AXES = ("data", "fsdp")
"""The mesh axes that share the rows of a batch."""

# [B, L]: rows over data and fsdp.
ROWS = P(ROW_AXES)


def mesh_shape(
    devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> tuple[int, int, int]:
    """Sizes of the three axes for a number of devices.

    Args:
        devices: how many there are.
        data, fsdp, tensor: sizes; at most one is −1, "what is left".

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, tensor)))
    wrong = {k: v for k, v in sizes.items() if v < 1 and v != -1}
    free = [k for k, v in sizes.items() if v == -1]
    if wrong or len(free) > 1:
        raise ValueError(
            f"mesh {sizes}: sizes are positive, and at most one is -1 (what is left)"
        )
    fixed = int(np.prod([v for v in sizes.values() if v != -1]))
    if devices % fixed or (not free and fixed != devices):
        raise ValueError(
            f"mesh {sizes} needs {'a multiple of ' if free else ''}{fixed} devices; "
            f"found {devices}. Change mesh.data, mesh.fsdp or mesh.tensor"
        )
    if free:
        sizes[free[0]] = devices // fixed
    return sizes["data"], sizes["fsdp"], sizes["tensor"]


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A (data, fsdp, tensor) mesh over the devices; ValueError as `mesh_shape`.

    The slices of a multi-slice TPU lie along data, which alone may cross the
    network between them.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(len(devices), data, fsdp, tensor)
    on_tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if on_tpu and shape[0] % slices:
        raise ValueError(
            f"mesh.data is {shape[0]} and the devices are {slices} slices; expected a "
            "multiple, since only data may cross between slices"
        )
    if not on_tpu:
        grid = np.asarray(devices).reshape(shape)
    elif slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]),
            (slices, 1, 1),
            devices,
            allow_split_physical_axes=True,
        )
    else:
        # An axis may be a part of a torus dimension, such as 64 x 4 on 16 x 16.
        grid = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform(mesh: Mesh) -> str:
    """What the mesh's devices are: "cpu", "gpu" or "tpu".

    Not jax's default backend: a step may be compiled for devices that are not here.
    """
    return mesh.devices.flat[0].platform


def row_shards(mesh: Mesh) -> int:
    """Shards that the rows of a batch are split into: the size of data × fsdp."""
    return math.prod(mesh.shape[axis] for axis in ROW_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def rows_over(mesh: Mesh, lead: int = 0) -> NamedSharding:
    """The sharding of [..., B, L] with `lead` axes before the rows."""
    return NamedSharding(mesh, P(*[None] * lead, *ROWS))


def put_rows(
    batch: Mapping[str, np.ndarray], mesh: Mesh, lead: int = 0
) -> dict[str, jax.Array]:
    """A batch of [..., B, L] arrays on the mesh; each device gets only its rows.

    Args:
        batch: the whole of it, in every process.
        mesh: the device mesh.
        lead: axes before the rows.
    """
    place = rows_over(mesh, lead)
    return {
        name: jax.make_array_from_callback(x.shape, place, lambda part, x=x: x[part])
        for name, x in batch.items()
    }
