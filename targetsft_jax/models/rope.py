"""Rotary position embeddings (RoPE): frequencies, scaling variants, application.

Feature pair i of a head is rotated by the angle position · ω_i, ω_i = θ^(−2i/d), so
that query · key depends only on the difference of positions. See "RoFormer: Enhanced
Transformer with Rotary Position Embedding", arXiv:2104.09864.
"""

import dataclasses
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every frequency is divided by `factor`.

    See "Extending Context Window of Large Language Models via Positional
    Interpolation", arXiv:2306.15595.
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(self, ("factor",))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scaled frequencies: [d / 2] -> [d / 2], float64."""
        return frequencies / self.factor

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3 scaling: low frequencies are divided by `factor`.

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor`
    are stretched by `factor`, those shorter than
    `original_max_position_embeddings / high_freq_factor` are unchanged, and those
    between are interpolated. See "The Llama 3 Herd of Models", arXiv:2407.21783.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        _check_positive(self, [field.name for field in dataclasses.fields(self)])
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor is {self.high_freq_factor} and "
                f"low_freq_factor is {self.low_freq_factor}; expected high_freq_factor "
                "above low_freq_factor, with a band between to interpolate in."
            )

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scaled frequencies: [d / 2] -> [d / 2], float64."""
        # Rotations of each pair over the original context.
        rotations = self.original_max_position_embeddings * frequencies / (2 * np.pi)
        band = self.high_freq_factor - self.low_freq_factor
        unscaled = np.clip((rotations - self.low_freq_factor) / band, 0.0, 1.0)
        return unscaled * frequencies + (1 - unscaled) * frequencies / self.factor

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN: low frequencies are divided by `factor`, high ones unchanged, with a ramp.

    The ramp covers the pairs that rotate between `beta_fast` and `beta_slow` times in
    the original context; `truncate` rounds its ends to integers. Cosine and sine are
    multiplied by `attention_factor`; None computes it from `mscale` and
    `mscale_all_dim`, or from `factor`. With `llama_4_scaling_beta`, queries are also
    scaled by their position (see `query_scale`).
    See "YaRN: Efficient Context Window Extension of Large Language Models",
    arXiv:2309.00071.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    llama_4_scaling_beta: float | None = None

    def __post_init__(self) -> None:
        names = ("factor", "original_max_position_embeddings")
        _check_positive(self, (*names, "beta_fast", "beta_slow"))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scaled frequencies: [d / 2] -> [d / 2], float64."""
        size = 2 * len(frequencies)

        def pair(rotations: float) -> float:
            """Index of the pair with this many rotations over the original context."""
            wavelength = self.original_max_position_embeddings / (
                rotations * 2 * math.pi
            )
            return size * math.log(wavelength) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high += 0.001 if low == high else 0
        ramp = np.clip((np.arange(size // 2) - low) / (high - low), 0.0, 1.0)
        return ramp * frequencies / self.factor + (1 - ramp) * frequencies

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine."""

        def magnitude(scale: float) -> float:
            return 0.1 * scale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return magnitude(self.mscale) / magnitude(self.mscale_all_dim)
        return magnitude(1.0)


@dataclasses.dataclass(frozen=True)
class LongRopeScaling:
    """LongRoPE: every frequency is divided by a searched factor, of two sets.

    Texts longer than `original_max_position_embeddings` have the long factors, others
    the short ones. Cosine and sine are multiplied by `attention_factor`; None computes
    it from `factor`, the ratio of the extended context to the original one.
    See "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens",
    arXiv:2402.13753.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _check_positive(self, ("original_max_position_embeddings", "factor"))
        if self.original_max_position_embeddings < 2:
            raise ValueError(
                "rope_scaling.original_max_position_embeddings is 1; expected 2 or more"
            )

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Frequencies of short texts: [d / 2] -> [d / 2], float64."""
        return frequencies / np.asarray(self.short_factor)

    def scaled_long(self, frequencies: np.ndarray) -> np.ndarray:
        """Frequencies of long texts: [d / 2] -> [d / 2], float64."""
        return frequencies / np.asarray(self.long_factor)

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine, of short and long texts."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        original = math.log(self.original_max_position_embeddings)
        return math.sqrt(1 + math.log(self.factor) / original)


@dataclasses.dataclass(frozen=True)
class NtkScaling:
    """NTK-aware scaling with a fixed `alpha`: the base becomes θ · alpha^(d / (d − 2)).

    The highest frequency is unchanged, and the lowest is divided by `alpha`.
    Checkpoints of Hunyuan call it `dynamic`; their `factor` has no effect.
    """

    alpha: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, ("alpha", "factor"))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scaled frequencies: [d / 2] -> [d / 2], float64."""
        last = max(len(frequencies) - 1, 1)
        return frequencies * self.alpha ** -(np.arange(len(frequencies)) / last)

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class DynamicScaling:
    """Dynamic NTK scaling: the base grows with a text beyond its original context.

    Frequencies are unscaled up to `original_max_position_embeddings` tokens. Longer
    texts, whose frequencies would change with every token, are refused (see
    `long_texts` and `generation.generate`).
    """

    factor: float
    original_max_position_embeddings: int

    def __post_init__(self) -> None:
        _check_positive(self, ("factor", "original_max_position_embeddings"))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Frequencies: [d / 2] -> the same, float64."""
        return frequencies

    @property
    def magnitude(self) -> float:
        """Factor of cosine and sine."""
        return 1.0


Scaling = (
    LinearScaling
    | RopeScaling
    | YarnScaling
    | LongRopeScaling
    | NtkScaling
    | DynamicScaling
)
Rotation = tuple[jax.Array, jax.Array]
"""Cosine and sine of every pair's angle."""


def frequencies(
    size: int, theta: float, scaling: Scaling | None = None, *, long: bool = False
) -> np.ndarray:
    """Angle per position of each feature pair: [size / 2] float32.

    `long` has an effect under `LongRopeScaling` only.
    """
    unscaled = float(theta) ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    if long and isinstance(scaling, LongRopeScaling):
        return scaling.scaled_long(unscaled).astype("f4")
    scaled = unscaled if scaling is None else scaling.scaled(unscaled, theta)
    return scaled.astype("f4")


def long_texts(scaling: Scaling | None, segment_ids: jax.Array) -> jax.Array | None:
    """True for tokens of texts that have the long factors: [B, L] int32 -> [B, L] bool.

    Args:
        scaling: scaling of the frequencies.
        segment_ids: 0 to L, one number for each text of a row.

    Returns:
        None where no text can be long.

    Raises:
        ValueError: rows that are longer than dynamic scaling leaves unscaled.
    """
    length = segment_ids.shape[1]
    if isinstance(scaling, DynamicScaling):
        original = scaling.original_max_position_embeddings
        if length > original:
            raise ValueError(
                f"rows have {length:,} tokens; expected at most {original:,}, beyond "
                "which this model's dynamic scaling of rotary frequencies changes with "
                f"every token. Set data.max_length to {original:,} or less."
            )
    if not isinstance(scaling, LongRopeScaling):
        return None
    if length <= scaling.original_max_position_embeddings:
        return None

    def lengths(row: jax.Array) -> jax.Array:
        return jnp.zeros(length + 1, jnp.int32).at[row].add(1)[row]

    return jax.vmap(lengths)(segment_ids) > scaling.original_max_position_embeddings


def query_scale(
    scaling: Scaling | None, positions: jax.Array, longest: int | None = None
) -> jax.Array | None:
    """Factor 1 + β log(1 + ⌊position / original⌋) of queries: [B, L] int32 -> f32.

    The original context is `original_max_position_embeddings`, and β
    `llama_4_scaling_beta`, of YaRN.

    Args:
        scaling: scaling of the frequencies.
        positions: of the tokens in their texts.
        longest: number of positions; None if unknown.

    Returns:
        [B, L, 1, 1], or None where every factor is 1.
    """
    beta = getattr(scaling, "llama_4_scaling_beta", None)
    if not beta or not isinstance(scaling, YarnScaling):
        return None
    original = scaling.original_max_position_embeddings
    if longest is not None and longest <= original:
        return None
    periods = (positions // original).astype(jnp.float32)
    return (1 + beta * jnp.log1p(periods))[..., None, None]


def rotation(
    positions: jax.Array,
    size: int,
    theta: float,
    scaling: Scaling | None = None,
    is_long: jax.Array | None = None,
) -> Rotation:
    """Cosine and sine of each pair's angle: [B, L] int32 -> two [B, L, size/2] f32.

    `is_long` [B, L] or [B, 1] is True for long texts; None for short ones.
    """
    angle_per_position = jnp.asarray(frequencies(size, theta, scaling))[None, None]
    if is_long is not None:
        of_long = jnp.asarray(frequencies(size, theta, scaling, long=True))
        angle_per_position = jnp.where(
            is_long[..., None], of_long[None, None], angle_per_position
        )
    angles = positions.astype(jnp.float32)[..., None] * angle_per_position
    magnitude = 1.0 if scaling is None else scaling.magnitude
    if magnitude == 1:
        return jnp.cos(angles), jnp.sin(angles)
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def no_rotation(like: Rotation) -> Rotation:
    """Rotation by 0, of the shape of another: x is unchanged."""
    return jnp.ones_like(like[0]), jnp.zeros_like(like[1])


def rotate(x: jax.Array, rotation: Rotation, interleaved: bool = False) -> jax.Array:
    """Rotate each head's feature pairs: [B, L, H, head_dim] -> same, dtype of x.

    A pair is (feature i, feature i + size/2) of the first `size` features, the layout
    of most Hugging Face checkpoints, or neighbours (2i, 2i + 1) if `interleaved`, as in
    the RoFormer paper. Further features, of families with partial rotary embeddings,
    are unchanged. Computed in float32.
    """
    cos, sin = (part[:, :, None, :] for part in rotation)  # [B, L, 1, size/2]
    half = cos.shape[-1]
    x32 = x.astype(jnp.float32)
    if interleaved:
        first, second = x32[..., 0 : 2 * half : 2], x32[..., 1 : 2 * half : 2]
    else:
        first, second = x32[..., :half], x32[..., half : 2 * half]
    rotated = (first * cos - second * sin, second * cos + first * sin)
    parts = list(rotated)
    if interleaved:
        parts = [jnp.stack(rotated, axis=-1).reshape(*x32.shape[:-1], 2 * half)]
    return jnp.concatenate((*parts, x32[..., 2 * half :]), axis=-1).astype(x.dtype)


def _check_positive(scaling: "Scaling", names: Iterable[str]) -> None:
    for name in names:
        if getattr(scaling, name) <= 0:
            raise ValueError(
                f"rope_scaling.{name} is {getattr(scaling, name)}; expected a number "
                "more than 0."
            )
