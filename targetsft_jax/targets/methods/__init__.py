"""Registry of methods: one function each, with its entry below it.

    weighted        a weight on the label; the remaining mass of Q is the model's p
    regularised     SFT with a second pull: smoothing, KL, a clip, an entropy bonus
    distillation    targets from a teacher
    composed        γ and π̃ selected by name

A new method is one function and one entry in the file of its family.
"""

from collections.abc import Mapping
from types import MappingProxyType

from targetsft_jax.targets.method import Method
from targetsft_jax.targets.methods import (
    composed,
    distillation,
    regularised,
    weighted,
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for family in (weighted, regularised, distillation, composed)
        for method in family.ENTRIES
    }
)

ALIASES: Mapping[str, str] = MappingProxyType({"p_loss": "dft"})
"""Alias -> name in `METHODS`."""

__all__ = ["ALIASES", "METHODS"]
