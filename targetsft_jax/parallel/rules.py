"""Which logical axis of a parameter lies on which mesh axis: one table."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# FSDP splits the model width, tensor parallelism the heads, the MLP and the
# vocabulary; layers are scanned and stay whole.
RULES: Mapping[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
}


def spec(
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: Mapping[str, str | None] = RULES,
) -> P:
    """The partition of one parameter.

    An axis that its mesh axis does not divide stays whole: correct, but held by every
    device (see `undivided` to report it).

    Args:
        axes: logical names, one for each dimension.
        shape: the dimensions.
        mesh: the device mesh.
        rules: logical axis -> mesh axis.

    Raises:
        ValueError: names and dimensions differ in number, or a name has no rule.
    """
    if len(axes) != len(shape):
        raise ValueError(f"logical axes {axes} do not fit shape {shape}")
    unknown = [name for name in axes if name is not None and name not in rules]
    if unknown:
        raise ValueError(f"no rule for logical axis {', '.join(unknown)}")
    return P(
        *(
            place if place and size % mesh.shape[place] == 0 else None
            for size, place in zip(shape, (rules.get(name or "") for name in axes))
        )
    )


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
    """Parameters that stay whole because a mesh axis does not divide them."""
    found = []
    for path, shape in jax.tree_util.tree_leaves_with_path(shapes):
        names = axes
        for key in path:
            names = names[key.key]
        wanted = [RULES.get(name or "") for name in names]
        got = spec(names, shape.shape, mesh)
        missed = [w for w, g in zip(wanted, got) if w and not g and mesh.shape[w] > 1]
        if missed:
            found.append(jax.tree_util.keystr(path, simple=True, separator="."))
    return found
