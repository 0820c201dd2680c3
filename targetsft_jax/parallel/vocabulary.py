"""Vocabulary parallelism: embedding and heads shared by groups of the fsdp axis.

Once layers are sharded, these are the largest arrays of a step: unsharded, a head of
152k × 3584 takes 1.1 GB in bfloat16 on every device, and its gradient 2.2 GB. So a
group of G neighbours on the fsdp axis shares them: each device computes logits of all
tokens of its group for V/G rows of the head, and looks all of them up in D/G columns of
the embedding. The fsdp axis becomes two, across groups (fsdp_across) and within a group
(fsdp):

    head in the loss       W[V_{fsdp,tensor}, D]   stored as W[V, D_{fsdp,tensor}]
    hidden states          x[N_{data,fsdp_across}, D]
    rows of the embedding  E[V, D_{fsdp,tensor}]

G = 1 gathers the matrices on every device, G = fsdp exchanges tokens over the entire
axis; memory and traffic are smallest in between.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from targetsft_jax.parallel.rules import prefix_that_divides

# The two axes that the fsdp axis becomes: across groups, and within a group.
ACROSS, WITHIN = "fsdp_across", "fsdp"
TOKENS = ("data", ACROSS, WITHIN)
VOCABULARY = (WITHIN, "tensor")
WIDTH = ((ACROSS, WITHIN), "tensor")


def with_groups(mesh: Mesh, group: int) -> Mesh:
    """The mesh with its fsdp axis split into groups of neighbours.

    Args:
        mesh: the (data, fsdp, tensor) mesh.
        group: G, devices per group.

    Returns:
        The (data, fsdp_across, fsdp, tensor) mesh of the same devices.

    Raises:
        ValueError: the group does not divide the axis.
    """
    fsdp = mesh.shape["fsdp"]
    if group < 1 or fsdp % group:
        raise ValueError(
            f"mesh.vocab_group is {group}; expected a divisor of mesh.fsdp = {fsdp}"
        )
    shape = (mesh.shape["data"], fsdp // group, group, mesh.shape["tensor"])
    names = ("data", ACROSS, WITHIN, "tensor")
    return Mesh(
        mesh.devices.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names)
    )


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
        mesh: the (data, fsdp, tensor) mesh.
        tokens: per device of the fsdp axis, in one micro-batch.
        vocabulary: rows of a head.
        width: D of the student.
        other_width: D of the second model, 0 without one.
        head_gradient: True if ∂head exists and is communicated.
    """
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]

    def size(group: int) -> float:
        # Heads in bfloat16 and ∂head in float32; then hidden states of the group's
        # tokens, and ∂hidden, in bfloat16.
        rows = vocabulary / (tensor * group)
        gathered = tokens * group if group > 1 else 0
        per_row = (6 if head_gradient else 2) * width + 2 * other_width
        return rows * per_row + gathered * (4 * width + 2 * other_width)

    return min((g for g in range(1, fsdp + 1) if fsdp % g == 0), key=size)


def lookup(
    table: jax.Array, tokens: jax.Array, mesh: Mesh, dtype: DTypeLike
) -> jax.Array:
    """Rows of a table whose columns are sharded; tokens are moved, not the table.

    The gradient of the table is summed in its dtype, and sharded as the table is.

    Args:
        table: [V, D_{fsdp_across,fsdp,tensor}], as far as these divide D.
        tokens: [B_{data,fsdp_across,fsdp}, L] int32.
        mesh: from `with_groups`.
        dtype: dtype of the result.

    Returns:
        [B_{data,fsdp_across,fsdp}, L, D].
    """
    stored = prefix_that_divides(table.shape[1], WIDTH, mesh.shape)

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if ACROSS in stored:
            table = lax.all_gather(table, ACROSS, axis=1, tiled=True)
        if WITHIN in stored:
            tokens = lax.all_gather(tokens, WITHIN, tiled=True)
        # Looked up in the dtype of the table, in which its gradient is summed.
        rows = jnp.take(table, tokens, axis=0).astype(dtype)
        if WITHIN in stored:
            rows = lax.all_to_all(rows, WITHIN, 0, 2, tiled=True)
        if "tensor" in stored:
            rows = lax.all_gather(rows, "tensor", axis=2, tiled=True)
        # Columns are gathered in the order tensor, within, across: reverse it.
        sizes = [mesh.shape[axis] for axis in reversed(stored)]
        split = rows.reshape(*rows.shape[:2], *sizes, -1)
        axes = range(2, 2 + len(sizes))
        return split.transpose(0, 1, *reversed(axes), 2 + len(sizes)).reshape(
            rows.shape
        )

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(None, stored), P(TOKENS)),
        out_specs=P(TOKENS),
        check_vma=False,
    )(table, tokens)
