"""Strict promotion: no dtype widens unless a line of the source says so."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_dtype_promotion():
    """In all tests of the targets, which are pure functions of arrays."""
    with jax.numpy_dtype_promotion("strict"):
        yield
