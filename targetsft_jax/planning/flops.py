"""Operations that a training step is for, counted from architectures.

Model FLOPs as papers count them for an MFU: products only, attention as causal (half
of the square), and nothing for layers that are run again in the backward pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from targetsft_jax.models.config import DecoderConfig


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one token in a training step; their sum is `total`.

    Attributes:
        student: three times its layers' forward pass.
        frozen: forward passes of the frozen models' layers.
        heads: three products of the student's head, one of each frozen model's.
    """

    student: float
    frozen: float
    heads: float

    @property
    def total(self) -> float:
        """Per token, all together."""
        return self.student + self.frozen + self.heads


def step_flops(
    student: DecoderConfig, frozen: Iterable[DecoderConfig], length: int
) -> StepFlops:
    """What one token costs in rows of `length` tokens, none of them masked."""
    frozen = list(frozen)
    return StepFlops(
        student=3 * layers_flops(student, length),
        frozen=sum(layers_flops(model, length) for model in frozen),
        heads=3 * head_flops(student) + sum(head_flops(model) for model in frozen),
    )


def layers_flops(config: DecoderConfig, length: int) -> float:
    """Forward FLOPs of all layers for one token."""
    d, queries = config.hidden_size, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    products = 2 * d * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    # Scores and their use, over half of the row on average.
    attention = 2 * 2 * queries * (length + 1) / 2
    return config.num_layers * (products + attention)


def head_flops(config: DecoderConfig) -> float:
    """FLOPs of one product of a token with the head."""
    return 2.0 * config.vocab_size * config.hidden_size
