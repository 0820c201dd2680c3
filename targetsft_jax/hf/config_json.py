"""config.json to DecoderConfig and back, in the spelling of transformers 5 and 4."""

import warnings

from targetsft_jax.hf.families import family
from targetsft_jax.models.config import DecoderConfig, RopeScaling

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}


def config_from_json(raw: dict, where: str) -> DecoderConfig:
    """The decoder a config.json describes.

    Args:
        raw: the parsed file.
        where: its path, for messages.

    Raises:
        ValueError: unknown model_type, a missing size, or a setting that changes the
            maths in a way not implemented; each names the key, its value and what is
            supported.

    Warns:
        UserWarning: attention_dropout is not 0. It is never applied here: inference
            is the same without it, fine-tuning is not.
    """
    known = family(raw.get("model_type"), where)
    missing = [key for key in _SIZES if raw.get(key) is None]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; is it a model's?")
    for key, supported in known.only.items():
        _refuse_unless(raw.get(key) in (None, supported), key, raw, supported, where)
    layer_types = raw.get("layer_types") or []
    full = all(kind == "full_attention" for kind in layer_types)
    _refuse_unless(full, "layer_types", raw, "full_attention in every layer", where)
    if raw.get("attention_dropout"):
        warnings.warn(
            f"{where}: attention_dropout is {raw['attention_dropout']!r}; dropout is "
            "never applied here, so training runs as with 0, and exports say nothing "
            "of it. Set it to 0 if that is what you want.",
            stacklevel=2,
        )
    theta, scaling = _rope(raw, where)
    heads = raw["num_attention_heads"]
    return DecoderConfig(
        **{ours: raw[theirs] for theirs, ours in _SIZES.items()},
        # Configs written before grouped-query attention lack the key.
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim"),
        # The rest are transformers' own defaults for an absent key.
        max_position_embeddings=raw.get("max_position_embeddings", 2048),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        qkv_bias=known.qkv_bias,
        model_type=raw["model_type"],
    )


def config_to_json(config: DecoderConfig, dtype: str) -> dict:
    """The config.json of a decoder, readable by transformers 4 and 5.

    Args:
        config: the decoder.
        dtype: the stored dtype's name, "bfloat16".
    """
    rope = {"rope_type": "default"}
    scaling = config.rope_scaling
    if scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": (
                scaling.original_max_position_embeddings
            ),
        }
    known = family(config.model_type, "DecoderConfig")
    return {
        "architectures": [known.architecture],
        "model_type": config.model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        # Every flag is written at the value implemented, so that no reader's own
        # default decides.
        **{key: value for key, value in known.only.items() if value is not None},
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "dtype": dtype,
        # The same three in transformers 4's words.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        "torch_dtype": dtype,
    }


def _rope(raw, where):
    """Base and scaling, from `rope_parameters` (5) or `rope_scaling` (4)."""
    key = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    found = raw.get(key) or {}
    theta = found.get("rope_theta") or raw.get("rope_theta") or 10_000.0
    kind = found.get("rope_type") or found.get("type") or "default"
    supported = "rope_type default or llama3, over the whole head"
    _refuse_unless(kind in ("default", "llama3"), key, raw, supported, where)
    for holder, name in ((found, key), (raw, "partial_rotary_factor")):
        whole_head = holder.get("partial_rotary_factor") in (None, 1.0)
        _refuse_unless(whole_head, name, raw, supported, where)
    if kind == "default":
        return float(theta), None
    numbers = ("factor", "low_freq_factor", "high_freq_factor")
    missing = [name for name in numbers if name not in found]
    _refuse_unless(not missing, key, raw, f"llama3 with {', '.join(numbers)}", where)
    original = found.get("original_max_position_embeddings")
    scaling = RopeScaling(
        **{name: float(found[name]) for name in numbers},
        original_max_position_embeddings=original or raw["max_position_embeddings"],
    )
    return float(theta), scaling


def _refuse_unless(supports, key, raw, supported, where):
    if not supports:
        raise ValueError(
            f"{where}: {key} is {raw.get(key)!r}, which changes the maths in a way "
            f"not implemented here; supported: {supported}."
        )
