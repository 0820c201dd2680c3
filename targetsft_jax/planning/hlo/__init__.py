"""Read compiled programs in XLA's HLO text."""

from targetsft_jax.planning.hlo.collectives import KINDS
from targetsft_jax.planning.hlo.parse import Shape, shapes_in
from targetsft_jax.planning.hlo.program import Program, read

__all__ = ["KINDS", "Program", "Shape", "read", "shapes_in"]
