"""Which logical axis of a parameter lies on which mesh axes: one table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# FSDP splits the model width, tensor parallelism the heads and the MLP; layers are
# scanned and stay whole. Embedding and head are split by the width only, over both:
# so the rows of two models meet wherever the loss cuts the vocabulary, though these
# models be padded to different lengths.
RULES: Mapping[str, tuple[str, ...]] = {
    "layers": (),
    "vocab": (),
    "table": ("fsdp", "tensor"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}


def prefix_that_divides(
    size: int, axes: Sequence[str | tuple[str, ...]], sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """As many of the mesh axes, from the first on, as divide a dimension.

    Axes in a tuple of their own go together or not at all.
    """
    found: tuple[str, ...] = ()
    for entry in axes:
        more = (*found, *((entry,) if isinstance(entry, str) else entry))
        if size % math.prod(sizes[axis] for axis in more):
            break
        found = more
    return found


def spec(
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> P:
    """The partition of one parameter.

    A dimension that its mesh axes do not divide is split over the first of them that
    do; over none, it is held whole by every device: correct, but see `undivided`.

    Args:
        axes: logical names, one for each dimension.
        shape: the dimensions.
        mesh: the device mesh.
        rules: logical axis -> mesh axes.

    Raises:
        ValueError: names and dimensions differ in number, or a name has no rule.
    """
    if len(axes) != len(shape):
        raise ValueError(f"logical axes {axes} do not fit shape {shape}")
    unknown = [name for name in axes if name is not None and name not in rules]
    if unknown:
        raise ValueError(f"no rule for logical axis {', '.join(unknown)}")
    places = (() if name is None else rules[name] for name in axes)
    found = (prefix_that_divides(n, p, mesh.shape) for n, p in zip(shape, places))
    # One axis by its name: jax tells ("fsdp",) from "fsdp" where specs are compared.
    return P(*((p[0] if len(p) == 1 else p) if p else None for p in found))


def shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each parameter.

    Args:
        axes: tree of tuples of logical axis names.
        shapes: the same tree of things with a `.shape`.
        mesh: the device mesh.

    Returns:
        The same tree of NamedSharding.
    """
    return jax.tree.map(
        lambda shape, names: NamedSharding(mesh, spec(names, shape.shape, mesh)),
        shapes,
        axes,
    )


def undivided(axes: Any, shapes: Any, mesh: Mesh) -> list[str]:
    """Parameters that stay whole because mesh axes do not divide them."""
    found = []
    for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
        names = axes
        for key in path:
            names = names[key.key]
        wanted = [RULES[name] if name else () for name in names]
        used = [
            prefix_that_divides(n, w, mesh.shape) for n, w in zip(shape.shape, wanted)
        ]
        missed = [
            axis
            for w, u in zip(wanted, used)
            for axis in w[len(u) :]
            if mesh.shape[axis] > 1
        ]
        if missed:
            found.append(jax.tree_util.keystr(path, simple=True, separator="."))
    return found
