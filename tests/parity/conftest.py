"""Quick compilation, which dominates the time of these tests."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """The same programs with fewer compiler optimizations, in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
