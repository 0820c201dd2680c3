"""Sharding of parameters: one table from logical axes to mesh axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

RULES: Mapping[str, tuple[str, ...]] = {
    "layers": (),
    "vocab": (),
    "table": ("fsdp", "context", "tensor"),
    "embed": ("fsdp", "context"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}
"""Logical axis -> mesh axes.

In the notation of the scaling book, for the width D, heads H, MLP width F and
vocabulary V:

    q, k, v      W[D_{fsdp,context}, H_tensor]
    o            W[H_tensor, D_{fsdp,context}]
    gate, up     W[D_{fsdp,context}, F_tensor]
    down         W[F_tensor, D_{fsdp,context}]
    embed, head  W[V, D_{fsdp,context,tensor}]

Devices that share the tokens of a row (context) need the same parameters, as those with
other rows do, so they shard them as the fsdp axis does. Layers are scanned, so their
axis is replicated. Embedding and head are sharded over the width only: wherever the
loss splits the vocabulary, the rows of two models coincide, even if their vocabularies
are padded to different sizes.
"""


def prefix_that_divides(
    size: int, axes: Sequence[str | tuple[str, ...]], sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """The longest prefix of the mesh axes whose total size divides a dimension.

    Args:
        size: the dimension.
        axes: mesh axes; those in a nested tuple are used together or not at all.
        sizes: mesh axis -> size.
    """
    prefix: tuple[str, ...] = ()
    for entry in axes:
        longer = (*prefix, *((entry,) if isinstance(entry, str) else entry))
        if size % math.prod(sizes[axis] for axis in longer):
            break
        prefix = longer
    return prefix


def spec(
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> P:
    """Partition of one parameter.

    A dimension that its mesh axes do not divide is sharded over the longest prefix of
    them that does, at worst over none (see `undivided`).

    Args:
        axes: logical names, one for each dimension.
        shape: the dimensions.
        mesh: the device mesh.
        rules: logical axis -> mesh axes.

    Raises:
        ValueError: names and dimensions differ in number, or a name has no rule.
    """
    if len(axes) != len(shape):
        raise ValueError(
            f"logical axes {axes} do not fit shape {shape}; expected one per axis"
        )
    unknown = [name for name in axes if name is not None and name not in rules]
    if unknown:
        raise ValueError(f"no rule for logical axis {', '.join(unknown)}")
    mesh_axes = (() if name is None else rules[name] for name in axes)
    parts = (prefix_that_divides(n, p, mesh.shape) for n, p in zip(shape, mesh_axes))
    # A single axis as a name: jax compares ("fsdp",) and "fsdp" as different.
    return P(*((p[0] if len(p) == 1 else p) if p else None for p in parts))


def shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """Shardings of all parameters.

    Args:
        axes: tree of tuples of logical axis names.
        shapes: the same tree with leaves that have a `.shape`.
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
    """Paths of parameters with an axis that its mesh axes do not divide.

    They are replicated over the mesh axes left out, which is correct but wastes memory.
    """
    paths = []
    for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
        names = axes
        for key in path:
            names = names[key.key]
        rules = [RULES[name] if name else () for name in names]
        used = [
            prefix_that_divides(n, axes, mesh.shape)
            for n, axes in zip(shape.shape, rules)
        ]
        unused = [
            axis
            for axes, prefix in zip(rules, used)
            for axis in axes[len(prefix) :]
            if mesh.shape[axis] > 1
        ]
        if unused:
            paths.append(jax.tree_util.keystr(path, simple=True, separator="."))
    return paths
