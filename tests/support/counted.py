"""Counts that pytest prints at the end, summed over its processes."""

COUNTED = "malformed inputs: "
"""Prefix of the names of such properties of a test."""
