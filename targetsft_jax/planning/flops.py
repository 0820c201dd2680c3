"""FLOPs of a training step, from the architectures of its models.

Model FLOPs, per token: the matrix products of the mathematics, a multiplication and an
addition being two. Attention is counted causally: (L + 1) / 2 keys per query on
average, fewer where a layer has a window. Recomputation (rematerialisation) is counted
apart, so that it lowers the MFU.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora, num_adapter_parameters


def layer_flops(
    config: DecoderConfig, length: int, mean_context: float | None = None
) -> float:
    """Forward FLOPs per token of all layers.

    Args:
        config: the decoder.
        length: tokens per row.
        mean_context: keys per query on average, before windows; by default (L + 1) / 2.
            Packed examples have fewer.
    """
    return _projections(config) + _attention(config, length, mean_context)


def _projections(config: DecoderConfig) -> float:
    """Forward FLOPs per token of the layers' weight matrices."""
    width, head_dim = config.hidden_size, config.head_dim or 0
    queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
    weights = width * (queries + 2 * keys) + queries * width
    weights += 3 * width * config.intermediate_size
    return config.num_layers * 2 * weights


def _attention(config: DecoderConfig, length: int, mean_context: float | None) -> float:
    """Forward FLOPs per token of the layers' scores and mixes of values."""
    queries = config.num_heads * (config.head_dim or 0)
    return sum(
        2 * 2 * queries * _keys_per_query(length, window, mean_context)
        for window in config.windows
    )


def _keys_per_query(
    length: int, window: int | None, mean_context: float | None
) -> float:
    """Mean number of keys that a query attends to in one layer."""
    window = length if window is None else min(window, length)
    if mean_context is not None:
        return min(mean_context, window)
    # The first queries have 1, 2, … keys, and all others a full window.
    return window - window * (window - 1) / (2 * length)


def head_flops(config: DecoderConfig, vocabulary: int) -> float:
    """Forward FLOPs per token of the logits."""
    return 2 * config.hidden_size * vocabulary


@dataclass(frozen=True)
class StepFlops:
    """FLOPs per token of a training step.

    Attributes:
        student: layers of the student, forward and backward.
        frozen: layers of the frozen roles and of held policies, forward.
        heads: logits and their gradients: the student's forward and backward, the
            others' forward.
        recomputed: added by rematerialisation; not model FLOPs.
    """

    student: float
    frozen: float
    heads: float
    recomputed: float

    @property
    def model(self) -> float:
        """Model FLOPs: without recomputation."""
        return self.student + self.frozen + self.heads

    @property
    def executed(self) -> float:
        """With recomputation."""
        return self.model + self.recomputed


def step_flops(
    student: DecoderConfig,
    frozen: Iterable[DecoderConfig],
    *,
    length: int,
    vocabulary: int,
    remat: str = "none",
    mean_context: float | None = None,
    lora: Lora | None = None,
    policies: int = 0,
    label_heads: int = 0,
) -> StepFlops:
    """FLOPs per token of a training step.

    A trained matrix takes three passes: forward, and the gradients with respect to its
    input and to itself. Under adapters the matrices are frozen and take two, the
    adapters three. Frozen roles take one.

    Args:
        student, frozen: architectures.
        length: tokens per row.
        vocabulary: real tokens; columns of the head that the loss reads.
        remat: "full" recomputes the student's layers once. Recomputation under "dots"
            and inside attention kernels is left out.
        mean_context: see `layer_flops`.
        lora: trained adapters; None trains all parameters.
        policies: forward passes of the student with parameters held in the state.
        label_heads: further passes of the student's head, for label log-probabilities.
    """
    roles = list(frozen)
    adapters = 0 if lora is None else 2 * num_adapter_parameters(student, lora)
    forward = layer_flops(student, length, mean_context) + adapters
    passes = 3 if lora is None else 2
    return StepFlops(
        student=passes * _projections(student)
        + 3 * (_attention(student, length, mean_context) + adapters),
        frozen=sum(layer_flops(role, length, mean_context) for role in roles)
        + policies * forward,
        heads=(passes + policies + label_heads) * head_flops(student, vocabulary)
        + sum(head_flops(role, vocabulary) for role in roles),
        recomputed=forward if remat == "full" else 0.0,
    )
