"""Strict dtype promotion: every widening is explicit."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_dtype_promotion():
    """Apply to all tests of the targets, which are pure functions of arrays."""
    with jax.numpy_dtype_promotion("strict"):
        yield
