"""Zig-zag order of a row's tokens on the context axis, which balances causal attention.

A token attends to those before it, so the devices with the end of a row would compute
almost twice the mean. A row is cut into 2c chunks for c devices instead, and device i
has the chunks i and 2c − 1 − i: the same number of pairs of tokens on every device.

    4 devices   0 7 | 1 6 | 2 5 | 3 4

The place of a token in the row as it was packed is its slot.
"""

import jax
import jax.numpy as jnp
import numpy as np


def zigzag_slots(length: int, devices: int) -> np.ndarray:
    """Slots of the tokens in zig-zag order, [L] int32.

    Args:
        length: tokens per row, L.
        devices: size of the context axis, c.

    Raises:
        ValueError: the row cannot be cut into 2c chunks.
    """
    if devices == 1:
        return np.arange(length, dtype=np.int32)
    if length % (2 * devices):
        raise ValueError(
            f"rows have {length:,} tokens; expected a multiple of 2 x mesh.context = "
            f"{2 * devices}, into which each row is cut"
        )
    chunks = np.arange(length, dtype=np.int32).reshape(2, devices, -1)
    return np.stack([chunks[0], chunks[1, ::-1]], axis=1).reshape(-1)


def busiest(slots: np.ndarray, devices: int) -> float:
    """Causal attention of the device with most of it, over the mean of the devices.

    Args:
        slots: slots of the queries [L], in equal parts by device.
        devices: size of the context axis.
    """
    # A query has a key in each slot up to its own one.
    pairs = (slots.astype(np.int64) + 1).reshape(devices, -1).sum(axis=1)
    return float(pairs.max() / pairs.mean())


def in_slot_order(x: jax.Array, devices: int) -> jax.Array:
    """An array [B, L, ...] in zig-zag order, in the order of its slots."""
    if devices == 1:
        return x
    pairs = x.reshape(x.shape[0], devices, 2, -1, *x.shape[2:])
    ordered = jnp.concatenate([pairs[:, :, 0], pairs[:, ::-1, 1]], axis=1)
    return ordered.reshape(x.shape)
