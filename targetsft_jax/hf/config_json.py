"""Convert between config.json (of transformers 4 and 5) and DecoderConfig."""

import dataclasses
import re
import warnings
from collections.abc import Mapping
from typing import Any

from targetsft_jax.hf.config_domains import check_config
from targetsft_jax.hf.family import DEFAULTS, PLAIN, Family
from targetsft_jax.hf.family_lookup import checked, family
from targetsft_jax.hf.layer_patterns import all_layers, rotated_layers
from targetsft_jax.keys import shown
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.rope import (
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    NtkScaling,
    RopeScaling,
    Scaling,
    YarnScaling,
)

Json = Mapping[str, Any]

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
# Flags that a config.json can set to null.
_NULLABLE = ("query_pre_attn_scalar", "attn_logit_softcap", "final_logit_softcap")
_DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop", "residual_dropout")
_KINDS: Mapping[str, Any] = {
    "linear": LinearScaling,
    "llama3": RopeScaling,
    "yarn": YarnScaling,
    "longrope": LongRopeScaling,
    "dynamic": DynamicScaling,
    "dynamic with alpha": NtkScaling,
}
_ALPHA = " with alpha"
# Rotary keys common to all kinds of scaling.
_GENERAL_ROPE_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "finetuned",
}
# Without effect in transformers, in files of Hunyuan and Ministral 3.
_IGNORED_ROPE_KEYS: Mapping[str, set[str]] = {
    "dynamic with alpha": {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"},
    "yarn": {"max_position_embeddings"},
}
_ORIGINAL = "original_max_position_embeddings"
_BETA = "llama_4_scaling_beta"
_WINDOW, _FULL = "sliding_attention", "full_attention"


def config_from_json(raw: Json, where: str) -> DecoderConfig:
    """Decoder config from a config.json.

    Args:
        raw: the parsed file.
        where: path of the file, for messages.

    Raises:
        ValueError: unknown model_type, a missing size, or a value that would change the
            decoder's function in a way that is not implemented; names the key, its
            value and the supported ones.

    Warns:
        UserWarning: a dropout is not 0. It is never applied, which affects fine-tuning
            but not inference.
    """
    if raw.get("model_type") == "mistral" and raw.get("layer_types"):
        # As in transformers: the family of Mistral has one window for all layers.
        raw = {**raw, "model_type": "ministral"}
    entry = family(raw.get("model_type"), where)
    aliases = {key: raw[name] for name, key in entry.aliases.items() if name in raw}
    raw = {**aliases, **raw}
    missing = [key for key in _SIZES if raw.get(key) is None]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)} missing; expected the config.json of a "
            "model"
        )
    check_config(raw, where, entry.aliases)
    # null counts as absent, except for keys that have it as a value.
    nullable = {"sliding_window", *(entry.reads.get(flag) for flag in _NULLABLE)}
    present = {k: v for k, v in raw.items() if v is not None or k in nullable}
    raw = {**DEFAULTS, **entry.defaults, **present}
    for key, supported in entry.only.items():
        names = supported if isinstance(supported, tuple) else (supported,)
        accepted = raw.get(key) in (None, *names)
        _refuse_unless(accepted, key, raw, ", ".join(map(str, names)), where)
    for key in _DROPOUTS:
        if raw.get(key):
            warnings.warn(
                f"{where}: {key} is {shown(raw[key])}; dropout is never applied here, "
                "so training runs as with 0, and exports do not contain it. Set it to "
                "0 to silence this warning.",
                stacklevel=2,
            )
    heads = raw["num_attention_heads"]
    window, sliding_layers = _windows(raw, entry, where)
    rope_layers = _rope_layers(raw, entry, sliding_layers, where)
    rope = _rope(raw, entry, window, where)
    flags: dict[str, Any] = {**PLAIN, **entry.flags}
    flags |= {ours: raw.get(key, PLAIN[ours]) for ours, key in entry.reads.items()}
    flags |= {name: 1 / flags[name] for name in entry.reciprocals}
    fields = {
        **{ours: raw[theirs] for theirs, ours in _SIZES.items()},
        # Configs from before grouped-query attention lack the key.
        "num_kv_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim"),
        "max_position_embeddings": raw["max_position_embeddings"],
        "rms_norm_eps": raw["rms_norm_eps"],
        "tie_word_embeddings": raw["tie_word_embeddings"],
        "sliding_window": window,
        "sliding_layers": sliding_layers,
        "rope_layers": rope_layers,
        "model_type": raw["model_type"],
    }
    return _decoder(fields | flags | rope, where)


def _decoder(fields: Mapping[str, Any], where: str) -> DecoderConfig:
    """Decoder config; errors name the file and the keys of config.json."""
    try:
        return DecoderConfig(**fields)
    except ValueError as error:
        text = str(error)
        others = {
            "num_key_value_heads": "num_kv_heads",
            "num_experts_per_tok": "experts_per_token",
        }
        for theirs, ours in (_SIZES | others).items():
            text = re.sub(rf"\b(DecoderConfig\.)?{ours}\b", theirs, text)
        raise ValueError(f"{where}: {text}") from None


def config_to_json(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """config.json of a decoder, readable by transformers 4 and 5.

    Args:
        config: the decoder.
        dtype: name of the stored dtype, such as "bfloat16".

    Raises:
        ValueError: flags that checkpoints of its model_type do not have.
    """
    entry = checked(config)
    rope: dict[str, Any] = {"rope_type": "default"}
    scaling = config.rope_scaling
    if scaling is not None:
        numbers = dataclasses.asdict(scaling).items()
        rope = {
            "rope_type": next(
                kind.removesuffix(_ALPHA)
                for kind, known in _KINDS.items()
                if isinstance(scaling, known)
            ),
            **{key: value for key, value in numbers if value is not None},
        }
    reads: dict[str, Any] = {
        key: getattr(config, ours) for ours, key in entry.reads.items()
    }
    reads |= {name: 1 / getattr(config, name) for name in entry.reciprocals}
    if "partial_rotary_factor" in reads:
        rope["partial_rotary_factor"] = config.partial_rotary_factor
    if "query_pre_attn_scalar" in reads:
        reads["query_pre_attn_scalar"] = config.query_pre_attn_scalar or config.head_dim
    if "attention_multiplier" in reads:
        reads["attention_multiplier"] = config.score_scale
    parameters = {**rope, "rope_theta": config.rope_theta}
    legacy: dict[str, Any] = {}
    if isinstance(scaling, LongRopeScaling):
        # transformers 4 expects three keys, and computes the factor.
        legacy = {_ORIGINAL: scaling.original_max_position_embeddings}
        if scaling.factor == config.max_position_embeddings / legacy[_ORIGINAL]:
            del rope["factor"], parameters["factor"]
        rope = {"type": rope["rope_type"], **rope}
        for key in ("rope_type", "partial_rotary_factor", _ORIGINAL):
            rope.pop(key, None)
    if entry.rope_by_layer:
        local = config.local_rope_theta or config.rope_theta
        parameters = {
            _FULL: parameters,
            _WINDOW: {"rope_type": "default", "rope_theta": local},
        }
        legacy = {"rope_local_base_freq": local}
    if entry.rope_layers == "no_rope_layers":
        layers = config.rope_layers or (True,) * config.num_layers
        reads["no_rope_layers"] = [int(flag) for flag in layers]
    document = {
        "architectures": [entry.architecture],
        "model_type": config.model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        # Every flag is written, so that no default of a reader applies.
        **_only_values(entry),
        **reads,
        **_window_keys(config, entry),
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": parameters,
        "dtype": dtype,
        # The names in transformers 4.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        **legacy,
        "torch_dtype": dtype,
    }
    others = {name: key for name, key in entry.aliases.items() if key in document}
    return document | {name: document[key] for name, key in others.items()}


def _only_values(entry: Family) -> dict[str, Any]:
    """Keys of config.json with one implemented value."""
    values = {
        key: value[0] if isinstance(value, tuple) else value
        for key, value in entry.only.items()
    }
    return {key: value for key, value in values.items() if value is not None}


def _windows(
    raw: Json, entry: Family, where: str
) -> tuple[int | None, tuple[bool, ...] | None]:
    """Window in tokens, and for each layer True if it has the window."""
    layer_types = raw.get("layer_types")
    if entry.local is None or entry.local is all_layers:
        # transformers ignores layer_types in these families; it must agree with them.
        kinds = set(layer_types or ())
        supported = f"{_FULL} in every layer"
        agrees = kinds <= {_FULL}
        if entry.local is all_layers and raw["sliding_window"] is not None:
            supported = f"{_WINDOW} in every layer"
            agrees = kinds <= {_WINDOW}
        _refuse_unless(agrees, "layer_types", raw, supported, where)
        return (None if entry.local is None else raw["sliding_window"]), None
    switched_off = entry.switch is not None and not raw.get(entry.switch)
    window = None if switched_off else raw["sliding_window"]
    if layer_types is None:
        pattern = raw.get("sliding_window_pattern")
        supported = "a whole number, 1 or more, where layer_types is absent"
        fits = pattern is None or (type(pattern) is int and pattern > 0)
        _refuse_unless(fits, "sliding_window_pattern", raw, supported, where)
        local = entry.local(raw)
    else:
        supported = f"{_FULL} or {_WINDOW} for each layer"
        fits = len(layer_types) == raw["num_hidden_layers"]
        fits = fits and {*layer_types} <= {_FULL, _WINDOW}
        _refuse_unless(fits, "layer_types", raw, supported, where)
        local = [kind == _WINDOW for kind in layer_types]
        contradicts = window is None and any(local)
        supported = f"{_FULL} in every layer, since there is no window"
        _refuse_unless(not contradicts, "layer_types", raw, supported, where)
    return window, None if window is None else tuple(local)


def _rope_layers(
    raw: Json, entry: Family, sliding_layers: tuple[bool, ...] | None, where: str
) -> tuple[bool, ...] | None:
    """For each layer, True if its queries and keys rotate; None for all layers."""
    if entry.rope_layers == "no_rope_layers":
        layers = rotated_layers(raw)
        count = raw["num_hidden_layers"]
        fits, supported = len(layers) >= count, "one number for each layer"
        _refuse_unless(fits, "no_rope_layers", raw, supported, where)
        return tuple(layers[:count])
    if entry.rope_layers == "windows" and sliding_layers is not None:
        supported = f"{_WINDOW} in a layer, since sliding_window is not null"
        _refuse_unless(any(sliding_layers), "layer_types", raw, supported, where)
        return sliding_layers
    return None


def _window_keys(config: DecoderConfig, entry: Family) -> dict[str, Any]:
    """Keys of config.json that describe windows."""
    if entry.local is None:
        return {}
    window = config.sliding_window
    keys: dict[str, Any] = {"sliding_window": window}
    if entry.switch is not None:
        keys[entry.switch] = window is not None
    if entry.local is all_layers or (entry.switch is not None and window is None):
        return keys
    keys["layer_types"] = [
        _FULL if window is None else _WINDOW for window in config.windows
    ]
    if "max_window_layers" in entry.defaults:
        # For readers without layer_types.
        keys["max_window_layers"] = config.windows.count(None)
    return keys


def _rope(raw: Json, entry: Family, window: int | None, where: str) -> dict[str, Any]:
    """Rotary fields of a DecoderConfig."""
    # In transformers, rope_scaling (version 4) overrides rope_parameters (version 5).
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    parameters = raw.get(key) or {}
    local = None
    if entry.rope_by_layer:
        by_layer = raw.get("rope_parameters") or {}
        nested = {*by_layer} <= {_FULL, _WINDOW}
        supported = f"a part for {_FULL} and one for {_WINDOW}"
        _refuse_unless(nested, "rope_parameters", raw, supported, where)
        parameters = {**(by_layer.get(_FULL) or {}), **(raw.get("rope_scaling") or {})}
        of_window = by_layer.get(_WINDOW) or {}
        plain = {*of_window} <= {"rope_type", "rope_theta"}
        plain &= of_window.get("rope_type") in (None, "default")
        supported = f"rope_type default in {_WINDOW}"
        _refuse_unless(plain, "rope_parameters", raw, supported, where)
        local = float(of_window.get("rope_theta") or raw["rope_local_base_freq"])
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "dynamic" and parameters.get("alpha") is not None:
        kind += _ALPHA
    share = parameters.get("partial_rotary_factor") or raw.get("partial_rotary_factor")
    supported = f"rope_type {', '.join(entry.rope)}"
    if "partial_rotary_factor" not in entry.reads:
        in_parameters = parameters.get("partial_rotary_factor")
        name = key if in_parameters else "partial_rotary_factor"
        full = f"{supported}, over all features of a head"
        _refuse_unless(share in (None, 1.0), name, raw, full, where)
    _refuse_unless(kind in entry.rope, key, raw, supported, where)
    scales = parameters.get(_BETA) is not None
    supported = f"{kind} with{'' if entry.scales_queries else 'out'} {_BETA}"
    _refuse_unless(scales == entry.scales_queries, key, raw, supported, where)
    theta = parameters.get("rope_theta") or raw["rope_theta"]
    return {
        "rope_theta": float(theta),
        "rope_scaling": _scaling(kind, parameters, raw, key, where),
        "partial_rotary_factor": float(share or 1.0),
        "local_rope_theta": None if window is None else local,
    }


def _scaling(
    kind: str, parameters: Json, raw: Json, key: str, where: str
) -> Scaling | None:
    """Rotary scaling of one kind, from its section of config.json."""
    scaling = _KINDS.get(kind)
    fields = dataclasses.fields(scaling) if scaling else ()
    defaults = {field.name: field.default for field in fields}
    ignored = _IGNORED_ROPE_KEYS.get(kind, set())
    unknown = sorted({*parameters} - {*defaults} - _GENERAL_ROPE_KEYS - ignored)
    _refuse_unless(not unknown, key, raw, f"{kind} without {', '.join(unknown)}", where)
    if scaling is None:
        return None
    values = {
        name: parameters[name] for name in defaults if parameters.get(name) is not None
    }
    extended, original = raw["max_position_embeddings"], _ORIGINAL
    if scaling is DynamicScaling:
        # The only context in transformers.
        fits = values.get(original, extended) == extended
        supported = f"{original} {extended:,}, as max_position_embeddings"
        _refuse_unless(fits, key, raw, supported, where)
    if scaling is LongRopeScaling:
        # In transformers, the key outside of the section has priority.
        inside = values.setdefault(original, raw[original])
        supported = f"{original} {raw[original]:,}, as outside of it"
        _refuse_unless(inside == raw[original], key, raw, supported, where)
        values.setdefault("factor", extended / raw[original])
    if original in defaults:
        values.setdefault(original, extended)
    required = [
        name for name, value in defaults.items() if value is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    supported = f"{kind} with {', '.join(required)}"
    _refuse_unless(not missing, key, raw, supported, where)
    try:
        return scaling(**{name: _exact(name, value) for name, value in values.items()})
    except ValueError as error:
        text = str(error).replace("rope_scaling.", f"{key}.")
        raise ValueError(f"{where}: {text}") from None


def _exact(name: str, value: Any) -> Any:
    """Value of a scaling's field: hashable, and a float unless it is counted."""
    if isinstance(value, list):
        return tuple(map(float, value))
    return value if name in (_ORIGINAL, "truncate") else float(value)


def _refuse_unless(
    accepted: bool, key: str, raw: Json, supported: str, where: str
) -> None:
    if not accepted:
        raise ValueError(
            f"{where}: {key} is {shown(raw.get(key))}, which changes the decoder's "
            f"function in a way that is not implemented; supported: {supported}."
        )
