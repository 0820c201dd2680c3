"""Sampling of completions: next-token choice, the jitted loop, and `generate`."""
