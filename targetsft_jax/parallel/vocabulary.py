"""How devices share the vocabulary's matrices, the embedding and the heads.

They are the largest arrays of a step once layers are sharded: gathered whole, a head
of 152k × 3584 takes 1.1 GB in bfloat16 on every device and its gradient 2.2 GB. So a
group of G neighbours on the fsdp axis shares them: each takes all tokens of its group
through V/G rows of a head, and looks up all of them in D/G columns of the embedding.
G = 1 gathers the matrices whole, G = fsdp exchanges tokens over the whole axis; what
moves, and what is held, is least between the two.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel.rules import prefix_that_divides

# The fsdp axis of a mesh as two: across groups, and within one.
ACROSS, WITHIN = "fsdp_across", "fsdp"
TOKENS = ("data", ACROSS, WITHIN)
VOCABULARY = (WITHIN, "tensor")
WIDTH = ((ACROSS, WITHIN), "tensor")


def with_groups(mesh: Mesh, group: int) -> Mesh:
    """The (data, fsdp, tensor) mesh with its fsdp axis cut into groups of neighbours.

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
    """The group with the fewest bytes of heads and tokens on a device.

    Args:
        mesh: the (data, fsdp, tensor) mesh.
        tokens: of one device of the fsdp axis, in one micro-batch.
        vocabulary: rows of a head.
        width: D of the student.
        other_width: D of the second model, 0 without one.
        head_gradient: whether there is a ∂head to hold and to move.
    """
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]

    def size(group: int) -> float:
        # Both heads in bfloat16 and ∂head in float32; then the hidden states of all
        # of the group's tokens, and ∂hidden, in bfloat16.
        rows = vocabulary / (tensor * group)
        met = tokens * group if group > 1 else 0
        own = (6 if head_gradient else 2) * width
        return rows * (own + 2 * other_width) + met * (4 * width + 2 * other_width)

    return min((g for g in range(1, fsdp + 1) if fsdp % g == 0), key=size)


def lookup(table: jax.Array, tokens: jax.Array, mesh: Mesh, dtype) -> jax.Array:
    """Rows of a table whose columns lie on many devices, without moving the table.

    Its gradient is summed in the table's dtype, and arrives as the table is stored.

    Args:
        table: [V, D], stored over `WIDTH` on D where that divides.
        tokens: [B, L] int32, over `TOKENS`.
        mesh: from `with_groups`.
        dtype: of the result.

    Returns:
        [B, L, D], over `TOKENS`.
    """
    stored = prefix_that_divides(table.shape[1], WIDTH, mesh.shape)

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if ACROSS in stored:
            table = lax.all_gather(table, ACROSS, axis=1, tiled=True)
        if WITHIN in stored:
            tokens = lax.all_gather(tokens, WITHIN, tiled=True)
        # In the table's dtype first: its gradient adds up there.
        rows = jnp.take(table, tokens, axis=0).astype(dtype)
        if WITHIN in stored:
            rows = lax.all_to_all(rows, WITHIN, 0, 2, tiled=True)
        if "tensor" in stored:
            rows = lax.all_gather(rows, "tensor", axis=2, tiled=True)
        # Columns have met in the order tensor, within, across: the reverse of theirs.
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
