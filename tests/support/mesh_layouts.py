"""Layouts of the loss over eight devices, by name."""

import math

import jax
from jax.sharding import AxisType

from targetsft_jax.loss import MeshLayout
from targetsft_jax.parallel import vocabulary
from targetsft_jax.parallel.mesh import make_mesh

AXES = ("data", "fsdp", "tensor")
# (mesh, token axes, vocabulary axes, axes that heads are stored over). V = 53 is prime,
# the student's head 16 wide and the other one's 24.
LAYOUTS = {
    "one device": ((1, 1, 1), ("data", "fsdp"), ("tensor",), ("fsdp", "tensor")),
    "8 data": ((8, 1, 1), ("data", "fsdp"), ("tensor",), ("fsdp", "tensor")),
    "8 fsdp, replicated heads": ((1, 8, 1), ("data", "fsdp"), (), ("fsdp", "tensor")),
    "8 fsdp, vocabulary": ((1, 8, 1), ("fsdp",), ("fsdp",), ("fsdp",)),
    "8 tensor": ((1, 1, 8), ("data", "fsdp"), ("tensor",), ("fsdp", "tensor")),
    "2 data 4 tensor": ((2, 1, 4), ("data",), ("tensor",), ("tensor",)),
    "all three": ((2, 2, 2), ("data", "fsdp"), ("tensor",), ("fsdp", "tensor")),
    "fsdp groups": (
        (2, 2, 2),
        ("data", "fsdp"),
        ("fsdp", "tensor"),
        ("fsdp", "tensor"),
    ),
    "vocabulary on all axes": ((2, 2, 2), ("data", "fsdp"), AXES, ("fsdp", "tensor")),
    "replicated heads": ((2, 2, 2), ("data", "fsdp"), ("fsdp", "tensor"), ()),
    "other order": ((2, 2, 2), ("fsdp", "data"), ("tensor", "data"), ("data", "fsdp")),
    "tokens on one axis": ((2, 4, 1), ("data",), ("fsdp",), ("fsdp",)),
    "idle axis": ((2, 4, 1), ("data",), (), ("fsdp",)),
    "all width axes or none": ((2, 2, 2), AXES[:2], AXES[1:], (AXES,)),
    "tensor twice": ((2, 2, 2), ("data", "tensor"), ("tensor",), ("fsdp", "tensor")),
}


# Layouts of the training step: groups of the fsdp and context axes that share the
# vocabulary, on meshes (data, fsdp, tensor, context).
GROUPS = {
    f"step {shape}, groups of {group}": (shape, group)
    for shape, group in (
        ((1, 8, 1, 1), 1),
        ((1, 8, 1, 1), 4),
        ((1, 8, 1, 1), 8),
        ((2, 2, 2, 1), 2),
        ((1, 4, 1, 2), 1),
        ((1, 2, 2, 2), 2),
        ((1, 4, 1, 2), 4),
    )
}


def layout_of(name: str) -> MeshLayout:
    """The layout of a name in `LAYOUTS` or `GROUPS`, on the first devices."""
    shape, *axes = LAYOUTS.get(name) or GROUPS[name]
    devices = jax.devices()[: math.prod(shape)]
    if name in LAYOUTS:
        types = (AxisType.Auto,) * 3
        mesh = jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
        return MeshLayout(mesh, *axes)
    *sizes, context = shape
    mesh = make_mesh(*sizes, devices, context=context)
    return MeshLayout(
        vocabulary.with_groups(mesh, *axes),
        vocabulary.TOKENS,
        vocabulary.VOCABULARY,
        vocabulary.WIDTH,
        context=vocabulary.CONTEXT,
    )
