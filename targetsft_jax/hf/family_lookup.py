"""The family of a config.json or of a decoder, or the reason why there is none."""

import itertools

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN, Family
from targetsft_jax.hf.layer_patterns import all_layers
from targetsft_jax.hf.refused_families import MISSING
from targetsft_jax.keys import shown
from targetsft_jax.models.config import DecoderConfig


def family(model_type: object, source: str) -> Family:
    """Look up the family of a `model_type`.

    Args:
        model_type: value in a config.json.
        source: origin of the value, for messages.

    Raises:
        ValueError: unknown model_type; lists the supported ones.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        missing = MISSING.get(str(model_type))
        advice = (
            "A family with the same layers is one more entry in "
            "targetsft_jax/hf/families.py."
            if missing is None
            else f"The decoder has no flag for the following of it: {missing}."
        )
        raise ValueError(
            f"{source}: model_type is {shown(model_type)}; expected one of "
            f"{', '.join(sorted(FAMILIES))}. {advice}"
        )
    return FAMILIES[model_type]


def rotated_with_window(config: DecoderConfig) -> tuple[bool, ...] | None:
    """Layers with a window, as `rope_layers`; None if all have one or none has."""
    windowed = tuple(window is not None for window in config.windows)
    return windowed if len(set(windowed)) > 1 else None


def checked(config: DecoderConfig) -> Family:
    """Look up the family of a config, and check that its checkpoints can represent it.

    Raises:
        ValueError: unknown model_type, or flags that its checkpoints do not have.
    """
    entry = family(config.model_type, "DecoderConfig")
    fixed = {**PLAIN, **entry.flags}
    if entry.local is None:
        fixed["sliding_window"] = None
    if entry.local is all_layers:
        fixed["sliding_layers"] = None
    if not entry.rope_by_layer:
        fixed["local_rope_theta"] = None
    if entry.rope_layers is None:
        fixed["rope_layers"] = None
    if entry.rope_layers == "windows":
        fixed["rope_layers"] = rotated_with_window(config)
    beta = getattr(config.rope_scaling, "llama_4_scaling_beta", None)
    if (beta is not None) != entry.scales_queries:
        raise ValueError(
            f"DecoderConfig.rope_scaling.llama_4_scaling_beta is {beta}; expected "
            f"{'a number' if entry.scales_queries else None}, as in "
            f"{config.model_type!r} checkpoints. Change it or model_type."
        )
    if "num_experts" in entry.reads and not config.num_experts:
        raise ValueError(
            f"DecoderConfig.num_experts is 0; expected 1 or more, since every layer of "
            f"{config.model_type!r} checkpoints has experts. Change it or model_type."
        )
    for flag, value in fixed.items():
        if flag not in entry.reads and getattr(config, flag) != value:
            raise ValueError(
                f"DecoderConfig.{flag} is {getattr(config, flag)}; expected {value}, "
                f"its value in {config.model_type!r} checkpoints. Change {flag} or "
                "model_type."
            )
    for flag, other in itertools.combinations(entry.reads, 2):
        key = entry.reads[flag]
        same_key = key == entry.reads[other]
        if same_key and getattr(config, flag) != getattr(config, other):
            raise ValueError(
                f"DecoderConfig.{flag} is {getattr(config, flag)} and {other} is "
                f"{getattr(config, other)}; expected equal values, since "
                f"{config.model_type!r} checkpoints have one {key} for both."
            )
    return entry
