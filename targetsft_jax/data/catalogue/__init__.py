"""Catalogue of data sets by name: files, licences and conversion of rows."""

from targetsft_jax.data.catalogue.maths import MATHS
from targetsft_jax.data.catalogue.medical import MEDICAL

CATALOGUE = MATHS | MEDICAL
