"""Padded lengths of sequences: powers of two, so that few programs are compiled."""

SHORTEST = 64
"""Smallest padded length: compiling a shorter one costs more than padding."""


def padded_length(tokens: int) -> int:
    """Length that a sequence of so many tokens is padded to: the next power of two."""
    return max(SHORTEST, 1 << (tokens - 1).bit_length())
