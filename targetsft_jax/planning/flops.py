"""Floating-point operations of a training step, from the shapes of its models.

These are model FLOPs: what the maths needs. Attention is counted over the tokens that
a token may look at: the half of a full row, less where a layer has a window. What
rematerialisation computes again is no part of them, so that a step which computes less
again has a higher MFU.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora, num_adapter_parameters


def layers(config: DecoderConfig, length: int, seen: float | None = None) -> float:
    """Of one token through all layers, forward.

    Args:
        config: the decoder.
        length: tokens in a row.
        seen: tokens that a token looks at on average where no window ends its sight;
            by causality (L + 1) / 2. Packed examples see fewer.
    """
    return _weights(config) + _attention(config, length, seen)


def _weights(config: DecoderConfig) -> float:
    width, head = config.hidden_size, config.head_dim or 0
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    weights = width * (queries + 2 * keys) + queries * width
    weights += 3 * width * config.intermediate_size
    return config.num_layers * 2 * weights


def _attention(config: DecoderConfig, length: int, seen: float | None) -> float:
    queries = config.num_heads * (config.head_dim or 0)
    seen_in = [_seen(length, window, seen) for window in config.windows]
    # Scores, and the mix of values.
    return sum(2 * 2 * queries * tokens for tokens in seen_in)


def _seen(length: int, window: int | None, given: float | None) -> float:
    """Tokens that a token looks at on average in a layer."""
    window = length if window is None else min(window, length)
    if given is not None:
        return min(given, window)
    # The first tokens see 1, 2, ... of them, and all others a whole window.
    return window - window * (window - 1) / (2 * length)


def head(config: DecoderConfig, vocabulary: int) -> float:
    """Of one token's logits, forward."""
    return 2 * config.hidden_size * vocabulary


@dataclass(frozen=True)
class StepFlops:
    """Of one token in a training step.

    Attributes:
        student: its layers, forward and backward.
        frozen: the layers of the frozen roles and of held policies, forward.
        heads: the loss: the student's head forward and backward, the others' forward.
        again: what rematerialisation adds, beyond the model FLOPs.
    """

    student: float
    frozen: float
    heads: float
    again: float

    @property
    def model(self) -> float:
        """Without what is computed again."""
        return self.student + self.frozen + self.heads

    @property
    def executed(self) -> float:
        """With it."""
        return self.model + self.again


def step_flops(
    student: DecoderConfig,
    frozen: Iterable[DecoderConfig],
    *,
    length: int,
    vocabulary: int,
    remat: str = "none",
    seen: float | None = None,
    lora: Lora | None = None,
    policies: int = 0,
    labels: int = 0,
) -> StepFlops:
    """Of one token: 3 student forward passes, one of each frozen role, and the heads.

    Over adapters the matrices and the head are frozen: no product is for their
    gradient, and theirs are two passes of three.

    Args:
        student, frozen: architectures.
        length: tokens in a row.
        vocabulary: real tokens; columns that the loss needs.
        remat: "full" runs the student's layers forward once more. What "dots" and
            attention kernels compute again is left out.
        seen: as in `layers`.
        lora: the adapters that are trained, if they are.
        policies: forward passes of the student under parameters that the state holds.
        labels: passes through the student's head for label log-probabilities of its
            own.
    """
    others = list(frozen)
    added = 0 if lora is None else 2 * num_adapter_parameters(student, lora)
    forward = layers(student, length, seen) + added
    passes = 3 if lora is None else 2
    return StepFlops(
        student=passes * _weights(student)
        + 3 * (_attention(student, length, seen) + added),
        frozen=sum(layers(config, length, seen) for config in others)
        + policies * forward,
        heads=(passes + policies + labels) * head(student, vocabulary)
        + sum(head(config, vocabulary) for config in others),
        again=forward if remat == "full" else 0.0,
    )
