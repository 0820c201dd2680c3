"""Floating-point operations of a training step, from the shapes of its models.

These are model FLOPs: what the maths needs. Attention is counted over the tokens that
a token may look at: the half of a full row, less where a layer has a window. What
rematerialisation computes again is no part of them, so that a step which computes less
again has a higher MFU.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from targetsft_jax.models.config import DecoderConfig


def layers(config: DecoderConfig, length: int, seen: float | None = None) -> float:
    """Of one token through all layers, forward.

    Args:
        config: the decoder.
        length: tokens in a row.
        seen: tokens that a token looks at on average where no window ends its sight;
            by causality (L + 1) / 2. Packed examples see fewer.
    """
    width, head = config.hidden_size, config.head_dim or 0
    queries, keys = config.num_heads * head, config.num_kv_heads * head
    weights = width * (queries + 2 * keys) + queries * width
    weights += 3 * width * config.intermediate_size
    seen_in = [_seen(length, window, seen) for window in config.windows]
    # Scores, and the mix of values.
    return sum(2 * (weights + 2 * queries * tokens) for tokens in seen_in)


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
        frozen: the layers of the frozen roles, forward.
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
) -> StepFlops:
    """Of one token: 3 student forward passes, one of each frozen role, and the heads.

    Args:
        student, frozen: architectures.
        length: tokens in a row.
        vocabulary: real tokens; columns that the loss needs.
        remat: "full" runs the student's layers forward once more. What "dots" and
            attention kernels compute again is left out.
        seen: as in `layers`.
    """
    others = list(frozen)
    forward = layers(student, length, seen)
    return StepFlops(
        student=3 * forward,
        frozen=sum(layers(config, length, seen) for config in others),
        heads=3 * head(student, vocabulary)
        + sum(head(config, vocabulary) for config in others),
        again=forward if remat == "full" else 0.0,
    )
