"""Rounding of a page's numbers, whose low bits are noise that does not compress."""

import numpy as np

_MANTISSA_BITS = 23


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 values rounded to a mantissa of `bits` bits.

    The relative error is at most 2^−(bits + 1). Infinities and NaN are unchanged.
    """
    if not 0 < bits <= _MANTISSA_BITS:
        raise ValueError(f"bits is {bits}; expected 1 to {_MANTISSA_BITS}")
    drop = _MANTISSA_BITS - bits
    values = np.ascontiguousarray(values, np.float32)
    integers = values.view(np.uint32).astype(np.uint64)
    half = np.uint64((1 << drop) >> 1)
    cut = ((integers + half) >> np.uint64(drop)) << np.uint64(drop)
    # A carry out of the largest exponent is the rounding to infinity.
    result = cut.astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(values), result, values)


def rounded_logs(values: np.ndarray, step: float, bits: int) -> np.ndarray:
    """Float32 logarithms rounded to multiples of `step`, small ones more finely.

    The error is at most step / 2, so that exp has that relative error, and at most
    2^−(bits + 1) of the value, which keeps 1 − p where p is close to 1.

    Args:
        values: finite logarithms.
        step: a power of two.
        bits: bits of the mantissa of values below step · 2^bits.
    """
    coarse = np.round(np.asarray(values, np.float64) / step) * step
    is_small = np.abs(values) < step * 2**bits
    return np.where(is_small, rounded(values, bits), coarse).astype(np.float32)
