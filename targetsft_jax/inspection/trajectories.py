"""Methods with one weight per trajectory (iw-SFT), measured when all rows are."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.config.schema import PolicyConfig
from targetsft_jax.inspection.method_inputs import COLUMN, STUDENT, PageMethod
from targetsft_jax.targets.api import target
from targetsft_jax.targets.trajectory import trajectory_weight


def needs_trajectory(method: PageMethod) -> bool:
    """True if a method has a trajectory weight that a page computes from its models."""
    source = method.sources.get("trajectory_weight", COLUMN)
    return method.refusal is None and source != COLUMN


def label_weight(
    method: PageMethod,
    arrays: Mapping[str, np.ndarray],
    segments: np.ndarray,
    policy: PolicyConfig,
) -> np.ndarray:
    """Weight a [M] f32 of a method, with the student as q; a row is a trajectory.

    It needs the log-probabilities of a complete row, whose logits are gone by then. It
    does not depend on these otherwise, so that two tokens, the label and all others,
    stand for the vocabulary.

    Args:
        method: one for which `needs_trajectory` is true.
        arrays: log-probabilities at the candidates, the label first.
        segments: [M] int32, the row of each token.
        policy: aggregation over a trajectory.
    """
    reference = method.sources["trajectory_weight"]

    @jax.jit
    def weight(logprob: Array, reference_logprob: Array) -> Array:
        low, high = policy.clip
        weights = trajectory_weight(
            logprob,
            reference_logprob,
            jnp.asarray(segments),
            mode=policy.mode,
            temperature=policy.temperature,
            clip=(low, high),
        )
        others = jnp.log(jnp.maximum(-jnp.expm1(jnp.minimum(logprob, 0)), 1e-30))
        logits = jnp.stack([logprob, others], axis=-1)
        labels = jnp.zeros(logprob.shape, jnp.int32)
        inputs = {"trajectory_weight": weights, **method.hyper}
        return target(method.method, logits, labels, **inputs).label_weight

    names = (f"logprob_{STUDENT}", f"logprob_{reference}")
    return np.asarray(weight(*(arrays[name][:, 0] for name in names)))
