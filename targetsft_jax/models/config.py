"""The shape of a decoder, as one hashable value."""

import dataclasses

from targetsft_jax.models.rope import Scaling

ACTIVATIONS = ("silu", "gelu_tanh")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Everything the decoder's maths depends on; static and hashable under jit.

    Attributes:
        vocab_size: rows of the embedding and of the head (padded rows included).
        hidden_size: D, width of the residual stream.
        intermediate_size: width of the gated MLP.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides num_heads.
        head_dim: width of one head, even; hidden_size // num_heads when None.
        max_position_embeddings: the longest context the weights were trained on.
            Nothing is cut at it; it is written into exported configs.
        rms_norm_eps: added to the mean square before its root.
        rope_theta: base of the rotary frequencies.
        rope_scaling: stretching of the rotary frequencies (see `rope`), or None.
        partial_rotary_factor: share of a head's features that rotate, the first ones.
        tie_word_embeddings: the head is the embedding.
        qkv_bias: query, key and value projections carry a bias.
        o_bias: the attention's output projection carries a bias.
        qk_norm: every head of query and key is normed before it rotates.
        unit_offset: norms multiply by 1 + their parameter, which starts at 0.
        sandwich_norms: what attention and MLP give is normed before it is added.
        scale_embedding: embeddings are multiplied by the root of hidden_size.
        activation: of the gate in the MLP, one of `ACTIVATIONS`.
        query_pre_attn_scalar: scores are divided by its root; head_dim when None.
        attn_logit_softcap: scores become cap * tanh(score / cap); None for no cap.
        final_logit_softcap: the same of the logits. The decoder makes none: the loss
            and generation apply it.
        sliding_window: a token looks at itself and the window - 1 before it, in the
            layers of `sliding_layers`; None for no window.
        sliding_layers: for each layer, whether the window holds in it; all when None.
        local_rope_theta: base of the rotary frequencies in those layers, which have
            no scaling then; as in the others when None.
        model_type: the family's name in checkpoints ("qwen2", "llama"). The maths
            never reads it: the fields above say everything.

    Raises:
        ValueError: a size is not positive, or sizes do not divide.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int | None = None
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    rope_scaling: Scaling | None = None
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = True
    qkv_bias: bool = True
    o_bias: bool = False
    qk_norm: bool = False
    unit_offset: bool = False
    sandwich_norms: bool = False
    scale_embedding: bool = False
    activation: str = "silu"
    query_pre_attn_scalar: float | None = None
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    local_rope_theta: float | None = None
    model_type: str = "qwen2"

    def __post_init__(self):
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
        ):
            self._check_positive(name)
        for name in (
            "query_pre_attn_scalar",
            "attn_logit_softcap",
            "final_logit_softcap",
            "sliding_window",
            "local_rope_theta",
        ):
            if getattr(self, name) is not None:
                self._check_positive(name)
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_heads "
                    f"{self.num_heads}; change one of them or give head_dim."
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        if self.head_dim <= 0 or self.rotary_dim % 2 or not self.rotary_dim:
            raise ValueError(
                f"head_dim is {self.head_dim}, of which {self.rotary_dim} features "
                "rotate; rotary embedding turns pairs of features, so both must be "
                "positive and the latter even."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; choose from "
                f"{', '.join(ACTIVATIONS)}."
            )
        self._check_windows()
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; every key/value head must serve the same "
                "number of query heads."
            )

    @property
    def rotary_dim(self) -> int:
        """How many features of a head rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def score_scale(self) -> float:
        """What products of query and key are multiplied by."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer; None where it sees everything before it."""
        local = self.sliding_layers or (True,) * self.num_layers
        return tuple(self.sliding_window if here else None for here in local)

    def _check_positive(self, name):
        if getattr(self, name) <= 0:
            raise ValueError(
                f"DecoderConfig.{name} is {getattr(self, name)}; it must be positive."
            )

    def _check_windows(self):
        local = self.sliding_layers
        if local is not None and len(local) != self.num_layers:
            raise ValueError(
                f"sliding_layers says of {len(local)} layers whether the window holds "
                f"in them; num_layers is {self.num_layers}."
            )
        if self.sliding_window is None and (local or self.local_rope_theta):
            raise ValueError(
                "sliding_layers and local_rope_theta speak of layers with a window, "
                "and sliding_window is None; give it, or neither of them."
            )
        if local is not None and len(set(local)) == 1:
            # One spelling of one thing, so that equal configs compare equal.
            object.__setattr__(self, "sliding_layers", None)
            if not local[0]:
                object.__setattr__(self, "sliding_window", None)
                object.__setattr__(self, "local_rope_theta", None)


def num_parameters(config: DecoderConfig) -> int:
    """How many numbers the parameters hold; a tied head is counted once."""
    d, queries = config.hidden_size, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    attention = d * (queries + 2 * keys) + queries * d
    biases = queries + 2 * keys if config.qkv_bias else 0
    biases += d if config.o_bias else 0
    norms = (4 if config.sandwich_norms else 2) * d
    norms += 2 * config.head_dim if config.qk_norm else 0
    layer = attention + biases + 3 * d * config.intermediate_size + norms
    tables = 1 if config.tie_word_embeddings else 2
    return tables * config.vocab_size * d + config.num_layers * layer + d
