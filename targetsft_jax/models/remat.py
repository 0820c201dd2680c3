"""Rematerialisation policies: the activations of a layer that its backward pass reuses.

All others are recomputed from the layer's input, which is always saved. From the least
to the most memory:

    full             nothing
    attention        output and log-sum-exp of the attention kernel
    attention_block  also its inputs q, k and v, and the output of the projection o
    dots             also gate and up: all products with weights
    none             everything; no recomputation

`offload` saves what `dots` saves, but in the memory of the host.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

ATTENTION_IN, ATTENTION, ATTENTION_OUT, MLP = (
    "attention_in",
    "attention",
    "attention_out",
    "mlp",
)
"""Names of activations (`jax.ad_checkpoint.checkpoint_name`): q, k and v after the
rotation; output of the attention; output of the projection o; gate and up."""

ALL = (ATTENTION_IN, ATTENTION, ATTENTION_OUT, MLP)

_policies = jax.checkpoint_policies


@dataclass(frozen=True)
class Remat:
    """A rematerialisation policy.

    Attributes:
        saved: names of the activations that are saved.
        on_host: True if they are moved to the host's memory.
        policy: policy of `jax.checkpoint`; None: no rematerialisation.
    """

    saved: tuple[str, ...]
    policy: Callable[..., Any] | None
    on_host: bool = False


def _of_names(*names: str) -> Remat:
    return Remat(names, _policies.save_only_these_names(*names))


REMAT_POLICIES: Mapping[str, Remat] = {
    "none": Remat(ALL, None),
    "full": Remat((), _policies.nothing_saveable),
    "attention": _of_names(ATTENTION),
    "attention_block": _of_names(ATTENTION_IN, ATTENTION, ATTENTION_OUT),
    "dots": Remat(
        ALL,
        # Adapters have products without a name.
        _policies.save_from_both_policies(
            _policies.dots_with_no_batch_dims_saveable,
            _policies.save_only_these_names(ATTENTION),
        ),
    ),
    "offload": Remat(
        ALL,
        _policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(ALL),
            offload_src="device",
            offload_dst="pinned_host",
        ),
        on_host=True,
    ),
}
"""Name of a policy, as in `train.remat` -> policy."""
