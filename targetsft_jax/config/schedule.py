"""Schedules of hyper-parameters over training, such as η from 0 to 1.

target:
  eta: {from: 0, to: 1, shape: cosine}
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import Array

from targetsft_jax.keys import shown, shown_name
from targetsft_jax.targets.method import Hyper

SHAPES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "linear": lambda progress: progress,
        "cosine": lambda progress: (1 - jnp.cos(math.pi * progress)) / 2,
    }
)
"""Name -> share of the way from the first value to the last, of the share of steps."""


@dataclass(frozen=True)
class Schedule:
    """A number that moves from one value to another over the steps of a run.

    Attributes:
        first, last: values at 0 and at the last step.
        shape: name in `SHAPES`.
    """

    first: float
    last: float
    shape: str = "linear"

    def value(self, step: int | Array, steps: int) -> Array:
        """Value in optimizer step `step` of 1 … `steps`: [] f32.

        It depends on the number of the step alone, so that a resumed run has the values
        of an uninterrupted one.

        Args:
            step: number of the step, from 1; 0 has the first value. It may be traced.
            steps: optimizer steps of the run.
        """
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0, 1)
        share = SHAPES[self.shape](progress)
        mixed = (1 - share) * self.first + share * self.last
        # A rounding beyond an end would be outside of the domain.
        return jnp.clip(mixed, min(self.first, self.last), max(self.first, self.last))

    def __str__(self) -> str:
        return f"{self.first:g} to {self.last:g} ({self.shape})"


def schedule_of(path: str, value: Mapping[str, Any], hyper: Hyper) -> Schedule:
    """Read `{from: …, to: …, shape: …}` of a hyper-parameter.

    Args:
        path: dotted path of its key, for errors.
        value: the mapping.
        hyper: the hyper-parameter, whose domain has both ends.

    Raises:
        ValueError: a hyper-parameter without schedules, a key that is unknown or
            missing, an end outside the domain, or an unknown shape.
    """
    if not hyper.schedulable:
        raise ValueError(
            f"{path} is {shown(dict(value))}; expected one number, since this "
            "hyper-parameter selects code and cannot change during training"
        )
    for key in value:
        if key not in ("from", "to", "shape"):
            raise ValueError(
                f"{path}.{shown_name(str(key))} is not a key of a schedule; expected "
                "from, to and shape"
            )
    for key in ("from", "to"):
        refusal = key in value and hyper.refusal(f"{path}.{key}", value[key])
        if refusal:
            raise ValueError(refusal)
        if value.get(key) is None:
            raise ValueError(
                f"{path}.{key} has no number; expected a schedule such as "
                "{from: 0, to: 1, shape: linear}, or one number in place of it"
            )
    shape = value.get("shape", "linear")
    if shape not in SHAPES:
        raise ValueError(
            f"{path}.shape is {shown(shape)}; expected one of {', '.join(SHAPES)}"
        )
    return Schedule(float(value["from"]), float(value["to"]), shape)
