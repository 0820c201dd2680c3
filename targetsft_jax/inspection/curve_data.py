"""Curves of the methods: gradient and induced target against p_y, in a small setting.

    g_y, g_o, Q_y and Q_o as functions of p_y, for the label y and one other token o

The setting is fixed, so that all methods and all pages have the same axes: a label, a
token o that the teacher prefers, and 18 further tokens. Every number is
`tsft.target`'s.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.inspection.method_inputs import PageMethod
from targetsft_jax.targets.api import target
from targetsft_jax.targets.inputs import INPUTS

STOPS = 101
VOCABULARY = 20
SHARE = 0.5
"""Share of o in the student's mass outside the label."""
TEACHER = (0.2, 0.6)
"""Teacher's probabilities of y and of o; the further tokens share the rest."""
REFERENCE = (0.3, 0.35)
"""Reference's probabilities of y and of o."""
_LEAST = 1e-3

SETTING = (
    f"{VOCABULARY} tokens: the label y with probability p_y, a token o with "
    f"{SHARE:.0%} of the rest, and {VOCABULARY - 2} tokens that share the remainder. "
    f"The teacher gives y {TEACHER[0]:.0%} and o {TEACHER[1]:.0%}, the reference "
    f"{REFERENCE[0]:.0%} and {REFERENCE[1]:.0%}. Old policy and trajectory are those "
    "of the student, and the token is critical."
)


def curve_data(methods: Sequence[PageMethod]) -> dict[str, Any]:
    """Curves of all methods that a page can name, refused ones included.

    Args:
        methods: methods with their hyper-parameters.

    Returns:
        `p` [K]; `methods`: name -> `label_gradient`, `other_gradient`, `label_target`
        and `other_target` [K]; and the `setting` in words.
    """
    p = np.clip(np.linspace(0, 1, STOPS), _LEAST, 1 - _LEAST)
    named = [m for m in methods if m.name != "custom" or m.refusal is None]
    logits = np.log(student(p)).astype(np.float32)
    inputs = {m.name: _inputs(m, p) for m in named}

    def program(logits: Array, inputs: dict[str, Any]) -> dict[str, tuple]:
        labels = jnp.zeros(logits.shape[0], jnp.int32)
        targets = {
            m.name: target(m.method, logits, labels, **inputs[m.name], **m.hyper)
            for m in named
        }
        return {k: (q.logit_gradient(), q.induced()) for k, q in targets.items()}

    curves = jax.device_get(jax.jit(program)(logits, inputs))
    return {
        "p": _rounded(p),
        "methods": {
            name: {
                "label_gradient": _rounded(gradient[:, 0]),
                "other_gradient": _rounded(gradient[:, 1]),
                "label_target": _rounded(induced[:, 0]),
                "other_target": _rounded(induced[:, 1]),
            }
            for name, (gradient, induced) in curves.items()
        },
        "setting": SETTING,
    }


def student(p: np.ndarray) -> np.ndarray:
    """Student's distribution [K, V] of the setting: y, o, and the further tokens.

    Args:
        p: [K] probabilities of the label.
    """
    rest = (1 - p) * (1 - SHARE) / (VOCABULARY - 2)
    return np.stack([p, (1 - p) * SHARE, *[rest] * (VOCABULARY - 2)], axis=-1)


def _inputs(method: PageMethod, p: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of the setting that a method reads."""
    columns = {
        "teacher_logits": _fixed(TEACHER, len(p)),
        "reference_logits": _fixed(REFERENCE, len(p)),
        "trajectory_weight": np.ones(len(p), np.float32),
        "critical_mask": np.ones(len(p), np.float32),
        "old_logprob": np.log(p).astype(np.float32),
        "reference_prob": np.full(len(p), REFERENCE[0], np.float32),
        "label_gamma": np.ones(len(p), np.float32),
    }
    assert columns.keys() == INPUTS.keys()
    return {name: columns[name] for name in method.method.inputs(**method.hyper)}


def _fixed(masses: tuple[float, float], count: int) -> np.ndarray:
    """Logits [K, V] of a distribution that does not depend on p."""
    label, other = masses
    rest = (1 - label - other) / (VOCABULARY - 2)
    row = np.log([label, other, *[rest] * (VOCABULARY - 2)])
    return np.tile(row.astype(np.float32), (count, 1))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(x), 5) for x in values]
