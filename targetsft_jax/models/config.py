"""The shape of a decoder, as one hashable value."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3 stretching of the slow rotary frequencies.

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor`
    are stretched by `factor`, those shorter than
    `original_max_position_embeddings / high_freq_factor` stay, and the ones
    between are interpolated. See "The Llama 3 Herd of Models", arXiv:2407.21783.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(
                    f"rope_scaling.{field.name} is {getattr(self, field.name)}; "
                    "it must be positive."
                )
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor is {self.high_freq_factor} and "
                f"low_freq_factor is {self.low_freq_factor}; the high one must be "
                "the larger, or there is no band to interpolate in."
            )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Everything the decoder's maths depends on; static and hashable under jit.

    Attributes:
        vocab_size: rows of the embedding and of the head (padded rows included).
        hidden_size: D, width of the residual stream.
        intermediate_size: width of the SwiGLU.
        num_layers: decoder layers.
        num_heads: query heads.
        num_kv_heads: key and value heads; divides num_heads.
        head_dim: width of one head, even; hidden_size // num_heads when None.
        max_position_embeddings: the longest context the weights were trained on.
            Nothing is cut at it; it is written into exported configs.
        rms_norm_eps: added to the mean square before its root.
        rope_theta: base of the rotary frequencies.
        rope_scaling: Llama-3 frequency stretching, or None.
        tie_word_embeddings: the head is the embedding.
        qkv_bias: query, key and value projections carry a bias.
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
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = True
    qkv_bias: bool = True
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
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"DecoderConfig.{name} is {getattr(self, name)}; "
                    "it must be positive."
                )
        if self.head_dim is None:
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_heads "
                    f"{self.num_heads}; change one of them or give head_dim."
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        if self.head_dim <= 0 or self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}; rotary embedding turns pairs of "
                "features, so it must be positive and even."
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; every key/value head must serve the same "
                "number of query heads."
            )


def num_parameters(config: DecoderConfig) -> int:
    """How many numbers the parameters hold; a tied head is counted once."""
    d, queries = config.hidden_size, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    attention = d * (queries + 2 * keys) + queries * d
    biases = queries + 2 * keys if config.qkv_bias else 0
    layer = attention + biases + 3 * d * config.intermediate_size + 2 * d
    tables = 1 if config.tie_word_embeddings else 2
    return tables * config.vocab_size * d + config.num_layers * layer + d
