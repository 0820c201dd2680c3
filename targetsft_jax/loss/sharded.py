"""The fused loss over a mesh: every device takes its own tokens through the head.

Left to the partitioner, the loop over chunks would gather all tokens to every device
or reduce ∂head in every chunk. Here each device loops over the tokens it holds, with
the whole head, and ∂head is summed once afterwards.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from targetsft_jax.loss.fused import Metrics, Sharding, TokenLoss, fused_loss


def sharded_fused_loss(
    name: str | TokenLoss,
    hidden: Array,
    head: Array,
    labels: Array,
    *,
    weights: Array,
    mesh: Mesh,
    tokens: PartitionSpec,
    **arguments: Any,
) -> tuple[Array, Metrics]:
    """`fused_loss` on tokens spread over a mesh; same values to rounding.

    Args:
        name, hidden, head, labels, weights: as in `fused_loss`, with hidden [B, L, D]
            and the rest [B, L].
        mesh: the device mesh.
        tokens: how [B, L] is spread, such as P(("data", "fsdp"), "tensor"); both must
            divide.
        **arguments: everything else that `fused_loss` takes.

    Returns:
        The global loss and metrics, the same on all devices.
    """
    axes = tuple(
        axis
        for entry in tokens
        if entry is not None
        for axis in ((entry,) if isinstance(entry, str) else entry)
    )
    replicated = PartitionSpec()

    def wrap(run: Any, gradients: bool) -> Any:
        def run_all(hidden: Array, head: Array, batch: Any) -> Any:
            # Heads are whole on every device; all else is spread like the tokens.
            spread = replace(
                jax.tree.map(lambda _: tokens, batch),
                second={key: (tokens, replicated) for key in batch.second},
            )
            pulls = (tokens, replicated) if gradients else ()
            return jax.shard_map(
                run,
                mesh=mesh,
                in_specs=(tokens, replicated, spread),
                out_specs=(replicated, replicated, *pulls),
                check_vma=False,
            )(hidden, head, batch)

        return run_all

    return fused_loss(
        name,
        hidden,
        head,
        labels,
        weights=weights,
        sharding=Sharding(wrap, partial(jax.lax.psum, axis_name=axes)),
        **arguments,
    )
