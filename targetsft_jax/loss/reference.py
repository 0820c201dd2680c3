"""Reference loss for tests: dense logits, and autodiff of the cross-entropy to Q.

Slow, memory-hungry and simple by design. It shares no code with the fused gradient: the
target is constant and jax differentiates CE(Q, softmax(hidden @ headᵀ)).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets import Method, objective, target
from targetsft_jax.targets.arguments import counted, label_array, weight_array


def reference_loss(
    method: str | Method,
    hidden: Array,
    head: Array,
    labels: Array,
    *,
    weights: Array,
    teacher: tuple[Array, Array] | None = None,
    reference: tuple[Array, Array] | None = None,
    logit_caps: Mapping[str, float | None] | None = None,
    **inputs: Any,
) -> Array:
    """Σ weights · value, with the gradient of Σ weights · CE(stop_gradient(Q), p).

    Args:
        method: a name in `METHODS`, or a `Method`.
        hidden: [..., D]; head: [V, D]; labels: [...] int; weights: [...].
        teacher, reference: (hidden [..., D'], head [V, D']) of the second model.
        logit_caps: soft caps by role, as in `fused_loss`.
        **inputs: the method's per-token inputs and hyper-parameters.

    Returns:
        The loss [], differentiable in hidden and head.
    """
    caps = logit_caps or {}
    for role, model in (("teacher", teacher), ("reference", reference)):
        if model is not None:
            inputs[f"{role}_logits"] = stop_gradient(_logits(*model, caps.get(role)))
    logits = _logits(hidden, head, caps.get("student"))
    labels = label_array(labels, logits.shape[-1], counted(weights))
    weights = weight_array(weights)
    # Tokens of weight 0 may have labels outside the vocabulary.
    labels = jnp.where(weights == 0, 0, labels)
    q = stop_gradient(target(method, logits, labels, **inputs).induced())
    log_p = jax.nn.log_softmax(logits.astype(q.dtype), axis=-1)
    surrogate = -jnp.sum(jnp.where(q == 0, 0, q * log_p), axis=-1)
    value = stop_gradient(objective(method, logits, labels, **inputs))
    tokens = value + surrogate - stop_gradient(surrogate)
    return jnp.sum(jnp.where(weights == 0, 0, weights * tokens))


def _logits(hidden: Array, head: Array, cap: float | None) -> Array:
    wide = np.promote_types(hidden.dtype, np.float32)
    raw = jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=wide)
    return raw if cap is None else cap * jnp.tanh(raw / cap)
