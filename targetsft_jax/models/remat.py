"""Rematerialisation policies: the activations that a layer saves for its backward pass.

none saves all of them, full none but the layer's input, and dots the outputs of its
matrix products with weights and of the blockwise attention.
"""

import jax

ATTENTION = "attention"
"""Name of the output and the log-sum-exp of an attention kernel
(`jax.ad_checkpoint.checkpoint_name`)."""

_policies = jax.checkpoint_policies

REMAT_POLICIES = {
    "none": None,
    "full": _policies.nothing_saveable,
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(ATTENTION),
    ),
}
"""Name of a policy, as in `train.remat` -> policy of `jax.checkpoint`."""
