"""Fingerprint of named arrays, by which equal data is recognised."""

import hashlib

import numpy as np

from targetsft_jax.data.examples import Arrays


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 of names, shapes, dtypes and contents, 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
