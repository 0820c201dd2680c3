"""Decoder hyper-parameters as one hashable value."""

import dataclasses

from targetsft_jax.models.rope import LongRopeScaling, RopeScaling, Scaling, YarnScaling

ACTIVATIONS = ("silu", "gelu_tanh")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Decoder hyper-parameters; static and hashable under jit.

    Attributes:
        vocab_size: V, rows of the embedding and of the head (padded rows included).
        hidden_size: D, width of the residual stream.
        intermediate_size: width of the gated MLP.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides num_heads.
        head_dim: width of one head, even; None for hidden_size // num_heads.
        max_position_embeddings: longest context that the weights were trained on.
            Nothing is truncated to it; see `context_length`.
        rms_norm_eps: added to the mean square before its root.
        rope_theta: base of the rotary frequencies.
        rope_scaling: scaling of the rotary frequencies (see `rope`), or None.
        partial_rotary_factor: leading fraction of each head's features that rotate.
        tie_word_embeddings: the head shares the matrix of the embedding.
        qkv_bias: query, key and value projections have a bias.
        o_bias: the output projection of attention has a bias.
        qk_norm: queries and keys are normalized per head before their rotation.
        qk_norm_full: that norm is over the features of all heads instead.
        qk_norm_rotated: that norm is after the rotation instead.
        unit_offset: norms multiply by 1 + their parameter, which starts at 0.
        input_norms: the inputs of attention and MLP are normalized.
        output_norms: the outputs of attention and MLP are normalized before they are
            added to the residual stream.
        scale_embedding: embeddings are multiplied by sqrt(hidden_size).
        embedding_multiplier: embeddings are multiplied by it.
        residual_multiplier: the outputs of attention and MLP are multiplied by it
            before they are added to the residual stream.
        attention_multiplier: factor of the scores; None for that of
            `query_pre_attn_scalar`.
        logits_scaling: logits are divided by it. The decoder divides its hidden states,
            so that nothing after it does.
        activation: activation of the MLP's gate, one of `ACTIVATIONS`.
        query_pre_attn_scalar: scores are divided by its square root; None for head_dim.
        attn_logit_softcap: scores become cap * tanh(score / cap); None for no cap.
        final_logit_softcap: the same for logits. The decoder computes no logits: the
            loss and generation apply the cap.
        sliding_window: a token attends to itself and the window - 1 tokens before it,
            in the layers of `sliding_layers`; None for no window.
        sliding_layers: per layer, True if the window applies; None for all layers.
        local_rope_theta: base of the rotary frequencies in those layers, which then
            have no scaling; None for the base of the other layers.
        rope_layers: per layer, True if its queries and keys rotate; None for all
            layers. The others have no positions.
        rope_interleaved: the pairs that rotate are neighbours, (2i, 2i + 1).
        num_experts: experts of every layer, in place of its MLP; 0 for a dense model.
        experts_per_token: experts that a token is sent to.
        expert_size: width of an expert's gated MLP; None for intermediate_size.
        norm_topk_prob: the router's probabilities of a token's experts are divided by
            their sum.
        router_aux_loss_coef: weight of the load-balancing loss in training (see
            `experts.auxiliary_loss`), where a run does not set it. The decoder never
            reads it.
        model_type: name of the family in checkpoints ("qwen2", "llama"). The decoder
            never reads it: the fields above determine its function.

    Raises:
        ValueError: a size is not positive, or sizes do not divide.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = None  # type: ignore[assignment]  # set in __post_init__
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    rope_scaling: Scaling | None = None
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = True
    qkv_bias: bool = True
    o_bias: bool = False
    qk_norm: bool = False
    qk_norm_full: bool = False
    qk_norm_rotated: bool = False
    unit_offset: bool = False
    input_norms: bool = True
    output_norms: bool = False
    scale_embedding: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None
    logits_scaling: float = 1.0
    activation: str = "silu"
    query_pre_attn_scalar: float | None = None
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    local_rope_theta: float | None = None
    rope_layers: tuple[bool, ...] | None = None
    rope_interleaved: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int | None = None
    norm_topk_prob: bool = False
    router_aux_loss_coef: float = 0.0
    model_type: str = "qwen2"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
            "embedding_multiplier",
            "residual_multiplier",
            "logits_scaling",
        ):
            self._check_positive(name)
        for name in (
            "query_pre_attn_scalar",
            "attention_multiplier",
            "attn_logit_softcap",
            "final_logit_softcap",
            "sliding_window",
            "local_rope_theta",
            "expert_size",
        ):
            if getattr(self, name) is not None:
                self._check_positive(name)
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_heads "
                    f"{self.num_heads}; change one of them or set head_dim."
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        if self.head_dim <= 0 or self.rotary_dim % 2 or not self.rotary_dim:
            raise ValueError(
                f"head_dim is {self.head_dim}, of which {self.rotary_dim} features "
                "rotate; expected positive numbers, and the latter even, since rotary "
                "embedding rotates pairs of features."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; expected one of "
                f"{', '.join(ACTIVATIONS)}."
            )
        self._check_windows()
        self._check_rope_layers()
        self._check_rope_factors()
        self._check_experts()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; every key/value head must serve the same "
                "number of query heads."
            )

    @property
    def context_length(self) -> int:
        """Number of positions: `max_position_embeddings`, or more by its scaling.

        Configs of extended models state either the extended length (Llama 3.1) or the
        original one beside the factor (Qwen2.5 with YaRN).
        """
        scaling = self.rope_scaling
        if not isinstance(scaling, RopeScaling | YarnScaling):
            return self.max_position_embeddings
        extended = scaling.original_max_position_embeddings * scaling.factor
        return max(self.max_position_embeddings, int(extended))

    @property
    def rotary_dim(self) -> int:
        """Number of features of a head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        root = self.hidden_size**0.5 if self.scale_embedding else 1.0
        return root * self.embedding_multiplier

    @property
    def score_scale(self) -> float:
        """Factor of the products of query and key."""
        if self.attention_multiplier is not None:
            return self.attention_multiplier
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Window of each layer; None for a layer with full attention."""
        sliding = self.sliding_layers or (True,) * self.num_layers
        return tuple(self.sliding_window if flag else None for flag in sliding)

    def _check_positive(self, name: str) -> None:
        if getattr(self, name) <= 0:
            raise ValueError(
                f"DecoderConfig.{name} is {getattr(self, name)}; expected a number "
                "more than 0."
            )

    def _check_windows(self) -> None:
        sliding = self.sliding_layers
        if sliding is not None and len(sliding) != self.num_layers:
            raise ValueError(
                f"sliding_layers has {len(sliding)} entries and num_layers is "
                f"{self.num_layers}; expected one entry per layer."
            )
        if self.sliding_window is None and (sliding or self.local_rope_theta):
            raise ValueError(
                "sliding_layers and local_rope_theta describe layers with a window, "
                "and sliding_window is None; set it, or neither of them."
            )
        if sliding is not None and len(set(sliding)) == 1:
            # Normalized, so that configs of equal decoders compare equal.
            object.__setattr__(self, "sliding_layers", None)
            if not sliding[0]:
                object.__setattr__(self, "sliding_window", None)
                object.__setattr__(self, "local_rope_theta", None)

    def _check_rope_factors(self) -> None:
        scaling = self.rope_scaling
        if not isinstance(scaling, LongRopeScaling):
            return
        for name in ("short_factor", "long_factor"):
            factors = getattr(scaling, name)
            if len(factors) != self.rotary_dim // 2 or min(factors) <= 0:
                raise ValueError(
                    f"rope_scaling.{name} has {len(factors)} numbers; expected "
                    f"{self.rotary_dim // 2}, more than 0, one for each pair of "
                    "features that rotates."
                )

    def _check_rope_layers(self) -> None:
        layers = self.rope_layers
        if layers is not None and len(layers) != self.num_layers:
            raise ValueError(
                f"rope_layers has {len(layers)} entries and num_layers is "
                f"{self.num_layers}; expected one entry per layer."
            )
        if layers is not None and all(layers):
            # Normalized, as the windows are.
            object.__setattr__(self, "rope_layers", None)

    def _check_experts(self) -> None:
        if not self.num_experts:
            return
        if not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token} and num_experts is "
                f"{self.num_experts}; expected 1 or more, and at most num_experts."
            )
        if self.expert_size is None:
            object.__setattr__(self, "expert_size", self.intermediate_size)
