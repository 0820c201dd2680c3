"""FLOPs of a train step, from the architectures of its models.

Model FLOPs per token: the matrix products, two FLOPs per multiply-add. Attention is
causal: (L + 1) / 2 keys per query on average, fewer in a layer with a window.
Recomputation (rematerialisation) is counted separately, so that it lowers the MFU.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.models.lora import Lora, num_adapter_parameters
from targetsft_jax.models.remat import (
    ATTENTION,
    ATTENTION_IN,
    ATTENTION_OUT,
    MLP,
    REMAT_POLICIES,
)


def layer_flops(
    config: DecoderConfig, length: int, mean_context: float | None = None
) -> float:
    """Return the forward FLOPs per token of all layers.

    Args:
        config: decoder configuration.
        length: tokens per row, L.
        mean_context: mean keys per query, before windows; None: (L + 1) / 2. Packed
            rows have fewer.
    """
    return _projections(config) + _attention(config, length, mean_context)


def active_parameters(config: DecoderConfig) -> int:
    """Return the number of parameters that a token uses: all, without idle experts."""
    idle = config.num_experts - config.experts_per_token
    unused = 3 * config.hidden_size * (config.expert_size or 0) * idle
    return num_parameters(config) - config.num_layers * unused


def int8_flops(config: DecoderConfig) -> float:
    """Return the forward FLOPs per token of the products of an int8 model in int8.

    Those of experts are in the compute dtype.
    """
    weights = _attention_weights(config)
    if not config.num_experts:
        weights += 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * 2 * weights


def _attention_weights(config: DecoderConfig) -> int:
    """Return the elements of the projections of one layer's attention."""
    head_dim = config.head_dim or 0
    return 2 * config.hidden_size * head_dim * (config.num_heads + config.num_kv_heads)


def _projections(config: DecoderConfig) -> float:
    """Return the forward FLOPs per token of the layers' weight matrices."""
    width, weights = config.hidden_size, _attention_weights(config)
    if config.num_experts:
        # The router, and the experts that a token is sent to.
        active = config.experts_per_token * (config.expert_size or 0)
        weights += width * config.num_experts + 3 * width * active
    else:
        weights += 3 * width * config.intermediate_size
    return config.num_layers * 2 * weights


def _attention(config: DecoderConfig, length: int, mean_context: float | None) -> float:
    """Return the forward FLOPs per token of attention scores and weighted values."""
    queries = config.num_heads * (config.head_dim or 0)
    return sum(
        2 * 2 * queries * _keys_per_query(length, window, mean_context)
        for window in config.windows
    )


def _keys_per_query(
    length: int, window: int | None, mean_context: float | None
) -> float:
    """Return the mean number of keys per query in one layer."""
    window = length if window is None else min(window, length)
    if mean_context is not None:
        return min(mean_context, window)
    # The first queries have 1, 2, … keys, the others a full window.
    return window - window * (window - 1) / (2 * length)


def head_flops(config: DecoderConfig, vocabulary: int) -> float:
    """Return the forward FLOPs per token of the logits."""
    return 2 * config.hidden_size * vocabulary


@dataclass(frozen=True)
class StepFlops:
    """FLOPs per token of a train step.

    Attributes:
        student: layers of the student, forward and backward.
        frozen: layers of the frozen roles and of policies in the state, forward.
        heads: logits of all models, forward; of the student also backward.
        recomputed: recomputation by rematerialisation; not model FLOPs.
        int8: of the frozen roles' FLOPs, those of products in int8.
    """

    student: float
    frozen: float
    heads: float
    recomputed: float
    int8: float = 0.0

    @property
    def model(self) -> float:
        """Model FLOPs, without recomputation."""
        return self.student + self.frozen + self.heads

    @property
    def executed(self) -> float:
        """Executed FLOPs, with recomputation."""
        return self.model + self.recomputed


def step_flops(
    student: DecoderConfig,
    frozen: Iterable[DecoderConfig],
    *,
    length: int,
    vocabulary: int,
    remat: str = "none",
    kernel: str = "xla",
    mean_context: float | None = None,
    lora: Lora | None = None,
    policies: int = 0,
    label_heads: int = 0,
    stored_heads: Iterable[DecoderConfig] = (),
    int8: Iterable[DecoderConfig] = (),
    frozen_lengths: Sequence[int] = (),
    int8_lengths: Sequence[int] = (),
) -> StepFlops:
    """Count the FLOPs per token of the student's rows of a train step.

    A trained matrix has three products: forward, input gradient, weight gradient. With
    adapters the base matrices have two (no weight gradient) and the adapters three.
    Frozen roles have one.

    Args:
        student, frozen: architectures.
        length: tokens per row.
        vocabulary: columns of the head that the loss reads.
        remat: policy of the student's layers (see `models.remat`).
        kernel: attention kernel of the student.
        mean_context: see `layer_flops`.
        lora: adapters; None: all parameters are trained.
        policies: number of policies in the state, one forward pass each.
        label_heads: additional forward passes of the student's head, for label
            log-probabilities.
        stored_heads: teachers of which only the head runs, on stored hidden states.
        int8: those of the frozen architectures whose matrices are int8.
        frozen_lengths, int8_lengths: tokens per row of each of `frozen` and of `int8`;
            empty: `length` of all.
    """
    roles = list(frozen)
    lengths = list(frozen_lengths) or [length] * len(roles)
    models = list(int8)
    adapters = 0 if lora is None else 2 * num_adapter_parameters(student, lora)
    forward = layer_flops(student, length, mean_context) + adapters
    passes = 3 if lora is None else 2
    return StepFlops(
        student=passes * _projections(student)
        + 3 * (_attention(student, length, mean_context) + adapters),
        frozen=sum(
            layer_flops(role, tokens, mean_context) * tokens / length
            for role, tokens in zip(roles, lengths, strict=True)
        )
        + policies * forward,
        heads=(passes + policies + label_heads) * head_flops(student, vocabulary)
        + sum(head_flops(role, vocabulary) for role in (*roles, *stored_heads)),
        recomputed=recomputed_flops(student, length, remat, kernel, mean_context)
        + adapters * _ADAPTERS_RECOMPUTED.get(remat, 0.5),
        int8=sum(
            int8_flops(role) * tokens / length
            for role, tokens in zip(models, int8_lengths or [length] * len(models))
        ),
    )


_ADAPTERS_RECOMPUTED = {"none": 0.0, "dots": 0.0, "full": 1.0}
"""Share of the adapters' forward products; other policies save only the sums."""


def recomputed_flops(
    config: DecoderConfig,
    length: int,
    remat: str,
    kernel: str = "xla",
    mean_context: float | None = None,
) -> float:
    """Return the FLOPs per token that the backward pass of all layers repeats.

    The output of `down` is needed by the next layer only, so its product is repeated
    only where a norm follows it. What attention kernels repeat in their own backward
    pass is not counted.

    Args:
        config, length, mean_context: see `layer_flops`.
        remat: rematerialisation policy.
        kernel: attention kernel. With its output saved, splash and blockwise repeat
            nothing, and xla the scores; the others save no log-sum-exp.
    """
    if remat == "none":
        return 0.0
    saved = REMAT_POLICIES[remat].saved
    width, head_dim = config.hidden_size, config.head_dim or 0
    queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
    mlp = config.intermediate_size
    products = {
        ATTENTION_IN: queries + 2 * keys,
        ATTENTION_OUT: queries,
        MLP: 0 if config.num_experts else 2 * mlp,
    }
    weights = sum(size for name, size in products.items() if name not in saved)
    if config.num_experts:
        # Their products have no name; the weights of experts need those of `down`.
        active = config.experts_per_token * (config.expert_size or 0)
        weights += config.num_experts + 3 * active
    elif config.output_norms and remat != "dots":
        weights += mlp
    weights *= width
    share = 1.0
    if ATTENTION in saved:
        share = {"splash": 0.0, "blockwise": 0.0, "xla": 0.5}.get(kernel, 1.0)
    attention = _attention(config, length, mean_context)
    return config.num_layers * 2 * weights + share * attention
