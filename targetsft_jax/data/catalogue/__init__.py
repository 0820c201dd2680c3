"""Data sets by name: what they are, where from, and how a row becomes an example."""

from targetsft_jax.data.catalogue.maths import MATHS
from targetsft_jax.data.catalogue.medical import MEDICAL

CATALOGUE = MATHS | MEDICAL
