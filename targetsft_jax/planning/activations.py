"""Activations that the layers of the student save for the backward pass, in bytes."""

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.remat import (
    ATTENTION,
    ATTENTION_IN,
    ATTENTION_OUT,
    MLP,
    REMAT_POLICIES,
)


def saved_bytes(
    config: DecoderConfig,
    remat: str,
    tokens: float,
    *,
    itemsize: int = 2,
    tensor: int = 1,
) -> float:
    """Return the bytes per device that all layers save in device memory.

    A lower bound: under `none` only the inputs of the products are counted, of which
    there are more. The input of each layer is saved under every policy.

    Args:
        config: the student.
        remat: rematerialisation policy.
        tokens: of a micro-batch, per device.
        itemsize: bytes of an activation.
        tensor: size of the mesh axis tensor, over which heads and MLP are sharded.
    """
    policy = REMAT_POLICIES[remat]
    saved = () if policy.on_host else policy.saved
    widths = _widths(config, tensor)
    width = config.hidden_size + sum(widths[name] for name in saved)
    return config.num_layers * tokens * width * itemsize


def offloaded_bytes(
    config: DecoderConfig,
    remat: str,
    tokens: float,
    *,
    itemsize: int = 2,
    tensor: int = 1,
) -> float:
    """Return the bytes per device that all layers save in host memory.

    Args:
        config, remat, tokens, itemsize, tensor: see `saved_bytes`.
    """
    if not REMAT_POLICIES[remat].on_host:
        return 0.0
    width = sum(_widths(config, tensor).values())
    return config.num_layers * tokens * width * itemsize


def _widths(config: DecoderConfig, tensor: int) -> dict[str, float]:
    """Elements per token and device of the named activations."""
    head_dim = config.head_dim or 0
    queries = config.num_heads * head_dim / tensor
    # Key heads that do not divide over the devices are on all of them.
    parts = tensor if config.num_kv_heads % tensor == 0 else 1
    keys = config.num_kv_heads * head_dim / parts
    return {
        ATTENTION_IN: queries + 2 * keys,
        ATTENTION: queries,
        ATTENTION_OUT: config.hidden_size,
        # The products of experts have no name.
        MLP: 0 if config.num_experts else 2 * config.intermediate_size / tensor,
    }
