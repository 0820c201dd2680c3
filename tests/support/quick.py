"""Compiler options of the tests, whose time is dominated by compilation."""

import functools

import jax

# The same XLA program with less optimized machine code.
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def quicker() -> dict:
    """Options for a third of the time and more rounding; `QUICK` if XLA lacks them."""
    options = QUICK | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return QUICK
    return options
