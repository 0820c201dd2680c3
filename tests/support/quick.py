"""Compiler options for tests: compiling is most of what they cost."""

import functools

import jax

# The same XLA program with plainer machine code.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def quicker() -> dict:
    """In a third of the time, and with a little more rounding; as far as XLA knows."""
    found = QUICK | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=found)
    except jax.errors.JaxRuntimeError:
        return QUICK
    return found
