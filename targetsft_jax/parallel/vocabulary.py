"""Vocabulary parallelism: embedding and heads shared by groups of devices.

Once layers are sharded, these are the largest arrays of a step: unsharded, a head of
152k × 3584 takes 1.1 GB in bfloat16 on every device, and its gradient 2.2 GB. So a
group of G neighbours on the fsdp and context axes, which shard the tokens of a batch,
shares them: each device computes logits of all tokens of its group for V/G rows of the
head, and looks all of them up in D/G columns of the embedding. Each of the two axes
becomes two, across groups (fsdp_across) and within a group (fsdp). Without context:

    head in the loss       W[V_{fsdp,tensor}, D]   stored as W[V, D_{fsdp,tensor}]
    hidden states          x[N_{data,fsdp_across}, D]
    rows of the embedding  E[V, D_{fsdp,tensor}]

G = 1 gathers the matrices on every device, the largest G exchanges tokens over both
axes; memory and traffic are smallest in between. A group is within the context axis, or
has all of it: its devices are neighbours.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.parallel.rules import prefix_that_divides

# The axes that fsdp and context become: across groups, and within a group.
ACROSS, WITHIN = ("fsdp_across", "context_across"), ("fsdp", "context")
CONTEXT = ("context_across", "context")
ROWS = ("data", "fsdp_across", "fsdp")
TOKENS = (*ROWS, *CONTEXT)
VOCABULARY = (*WITHIN, "tensor")
WIDTH = (("fsdp_across", "fsdp"), CONTEXT, "tensor")


def with_groups(mesh: Mesh, group: int) -> Mesh:
    """The mesh with its fsdp and context axes split into groups of neighbours.

    Args:
        mesh: the (data, fsdp, context, tensor) mesh.
        group: G, devices per group.

    Returns:
        The (data, fsdp_across, fsdp, context_across, context, tensor) mesh of the same
        devices.

    Raises:
        ValueError: the group is not one of `group_sizes`.
    """
    if group not in group_sizes(mesh):
        raise ValueError(
            f"mesh.vocab_group is {group}; expected a divisor of mesh.context = "
            f"{mesh.shape['context']}, or that times a divisor of mesh.fsdp = "
            f"{mesh.shape['fsdp']}: {', '.join(map(str, group_sizes(mesh)))}"
        )
    data, fsdp, context, tensor = mesh.devices.shape
    columns = min(group, context)
    rows = group // columns
    shape = (data, fsdp // rows, rows, context // columns, columns, tensor)
    names = (*TOKENS, "tensor")
    return Mesh(
        mesh.devices.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names)
    )


def group_sizes(mesh: Mesh) -> list[int]:
    """Sizes of groups of neighbours, ascending."""
    context, fsdp = (
        [g for g in range(1, mesh.shape[axis] + 1) if mesh.shape[axis] % g == 0]
        for axis in ("context", "fsdp")
    )
    return [*context, *(context[-1] * g for g in fsdp[1:])]


def best_group(
    mesh: Mesh,
    tokens: int,
    vocabulary: int,
    width: int,
    other_width: int = 0,
    head_gradient: bool = True,
) -> int:
    """Group size with the fewest bytes of heads and hidden states per device.

    Args:
        mesh: the (data, fsdp, context, tensor) mesh.
        tokens: per device of the fsdp and context axes, in one micro-batch.
        vocabulary: rows of a head.
        width: D of the student.
        other_width: D of the second model, 0 without one.
        head_gradient: True if ∂head exists and is communicated.
    """
    tensor = mesh.shape["tensor"]

    def size(group: int) -> float:
        # Heads in bfloat16 and ∂head in float32; then hidden states of the group's
        # tokens, and ∂hidden, in bfloat16.
        rows = vocabulary / (tensor * group)
        gathered = tokens * group if group > 1 else 0
        per_row = (6 if head_gradient else 2) * width + 2 * other_width
        return rows * per_row + gathered * (4 * width + 2 * other_width)

    return min(group_sizes(mesh), key=size)


def lookup(
    table: jax.Array, tokens: jax.Array, mesh: Mesh | AbstractMesh, dtype: DTypeLike
) -> jax.Array:
    """Rows of a table whose columns are sharded; tokens are moved, not the table.

    The gradient of the table is summed in its dtype, and sharded as the table is.

    Args:
        table: [V, D] with D sharded over the axes of `WIDTH`, as far as these divide D.
        tokens: [B, L] int32, sharded over `ROWS` and `CONTEXT`.
        mesh: from `with_groups`, or its abstract mesh inside jit.
        dtype: dtype of the result.

    Returns:
        [B, L, D], sharded as the tokens are.
    """
    prefix = prefix_that_divides(table.shape[1], WIDTH, mesh.shape)
    # A CPU copies the table for a collective of one device.
    stored = tuple(axis for axis in prefix if mesh.shape[axis] > 1)
    within = tuple(axis for axis in stored if axis in WITHIN)
    # In the order in which columns are gathered, each time before those at hand.
    gathered = (
        *(axis for axis in stored if axis in ACROSS),
        *within,
        *(axis for axis in stored if axis == "tensor"),
    )

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        for axis in gathered:
            if axis in ACROSS:
                table = lax.all_gather(table, axis, axis=1, tiled=True)
        if within:
            tokens = lax.all_gather(tokens, within, tiled=True)
        # Looked up in the dtype of the table, in which its gradient is summed.
        rows = jnp.take(table, tokens, axis=0).astype(dtype)
        for axis in within:
            rows = lax.all_to_all(rows, axis, 0, 2, tiled=True)
        if "tensor" in stored:
            rows = lax.all_gather(rows, "tensor", axis=2, tiled=True)
        axes = gathered[::-1]
        split = rows.reshape(*rows.shape[:2], *(mesh.shape[x] for x in axes), -1)
        order = [2 + axes.index(axis) for axis in stored]
        return split.transpose(0, 1, *order, 2 + len(axes)).reshape(rows.shape)

    batch = P(ROWS, CONTEXT)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(None, stored), batch),
        out_specs=batch,
        check_vma=False,
    )(table, tokens)
