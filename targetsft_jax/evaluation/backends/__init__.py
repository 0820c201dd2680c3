"""Backends that complete prompts of token ids: this package's sampler, or a server."""

from targetsft_jax.evaluation.backends.backend import Backend, Sample, Work

__all__ = ["Backend", "Sample", "Work"]
