"""Rotary positions: the frequencies of each family's scaling, and the turning."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by `factor`: positions lie that much closer together.

    See "Extending Context Window of Large Language Models via Positional
    Interpolation", arXiv:2306.15595.
    """

    factor: float

    def __post_init__(self):
        _check_positive(self, ("factor",))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """[d / 2] -> [d / 2], float64."""
        return frequencies / self.factor

    @property
    def magnitude(self) -> float:
        """What cosine and sine are multiplied by."""
        return 1.0


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
        _check_positive(self, [field.name for field in dataclasses.fields(self)])
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor is {self.high_freq_factor} and "
                f"low_freq_factor is {self.low_freq_factor}; the high one must be "
                "the larger, or there is no band to interpolate in."
            )

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """[d / 2] -> [d / 2], float64."""
        # How often each pair turns over the original context.
        turns = self.original_max_position_embeddings * frequencies / (2 * np.pi)
        band = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((turns - self.low_freq_factor) / band, 0.0, 1.0)
        return keep * frequencies + (1 - keep) * frequencies / self.factor

    @property
    def magnitude(self) -> float:
        """What cosine and sine are multiplied by."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN: slow frequencies divided by `factor`, fast ones kept, a ramp between.

    The ramp runs over the pairs that turn between `beta_fast` and `beta_slow` times
    in the original context, in whole pairs when `truncate`. Cosine and sine grow by
    `attention_factor`, or what `mscale` and `mscale_all_dim` or `factor` give.
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

    def __post_init__(self):
        names = ("factor", "original_max_position_embeddings")
        _check_positive(self, (*names, "beta_fast", "beta_slow"))

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """[d / 2] -> [d / 2], float64."""
        size = 2 * len(frequencies)

        def pair(turns):
            """Which pair turns so often over the original context."""
            longest = self.original_max_position_embeddings / (turns * 2 * math.pi)
            return size * math.log(longest) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high += 0.001 if low == high else 0
        ramp = np.clip((np.arange(size // 2) - low) / (high - low), 0.0, 1.0)
        return ramp * frequencies / self.factor + (1 - ramp) * frequencies

    @property
    def magnitude(self) -> float:
        """What cosine and sine are multiplied by."""

        def grown(by):
            return 0.1 * by * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return grown(self.mscale) / grown(self.mscale_all_dim)
        return grown(1.0)


Scaling = LinearScaling | RopeScaling | YarnScaling
Rotation = tuple[jax.Array, jax.Array]


def frequencies(size: int, theta: float, scaling: Scaling | None = None) -> np.ndarray:
    """Angle per position of each feature pair: [size / 2] float32."""
    plain = float(theta) ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    return (plain if scaling is None else scaling.scaled(plain, theta)).astype("f4")


def rotation(
    positions: jax.Array, size: int, theta: float, scaling: Scaling | None = None
) -> Rotation:
    """Cosine and sine of each pair's angle: [B, L] int32 -> two [B, L, size/2] f32."""
    turned = jnp.asarray(frequencies(size, theta, scaling))
    angles = positions.astype(jnp.float32)[..., None] * turned[None, None, :]
    magnitude = 1.0 if scaling is None else scaling.magnitude
    if magnitude == 1:
        return jnp.cos(angles), jnp.sin(angles)
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turn each head's feature pairs, in float32: [B, L, H, hd] -> same, dtype of x.

    A pair is (feature i, feature i + size/2) of the first `size` features, the layout
    of Hugging Face checkpoints; the RoFormer paper (arXiv:2104.09864) pairs
    neighbours instead. Features behind them, where a family turns a part only, stay.
    """
    cos, sin = (part[:, :, None, :] for part in rotation)  # [B, L, 1, size/2]
    half = cos.shape[-1]
    wide = x.astype(jnp.float32)
    first, second = wide[..., :half], wide[..., half : 2 * half]
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate((*turned, wide[..., 2 * half :]), axis=-1).astype(x.dtype)


def _check_positive(scaling, names):
    for name in names:
        if getattr(scaling, name) <= 0:
            raise ValueError(
                f"rope_scaling.{name} is {getattr(scaling, name)}; it must be positive."
            )
