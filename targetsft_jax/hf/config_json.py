"""config.json to DecoderConfig and back, in the spelling of transformers 5 and 4."""

import dataclasses
import warnings

from targetsft_jax.hf.families import (
    DEFAULTS,
    PLAIN,
    Family,
    all_layers,
    checked,
    family,
)
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.rope import LinearScaling, RopeScaling, YarnScaling

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}
_DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop")
_KINDS = {"linear": LinearScaling, "llama3": RopeScaling, "yarn": YarnScaling}
# What stands beside a scaling's own numbers.
_BESIDE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"}
_WINDOW, _FULL = "sliding_attention", "full_attention"


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
        UserWarning: a dropout is not 0. It is never applied here: inference is the
            same without it, fine-tuning is not.
    """
    known = family(raw.get("model_type"), where)
    missing = [key for key in _SIZES if raw.get(key) is None]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; is it a model's?")
    _check_kinds(raw, where)
    # null is absence, but where it is a value of its own.
    values = {"sliding_window", *known.reads.values()}
    said = {k: v for k, v in raw.items() if v is not None or k in values}
    raw = {**DEFAULTS, **known.defaults, **said}
    for key, supported in known.only.items():
        _refuse_unless(raw.get(key) in (None, supported), key, raw, supported, where)
    for key in _DROPOUTS:
        if raw.get(key):
            warnings.warn(
                f"{where}: {key} is {raw[key]!r}; dropout is never applied here, so "
                "training runs as with 0, and exports say nothing of it. Set it to 0 "
                "if that is what you want.",
                stacklevel=2,
            )
    heads = raw["num_attention_heads"]
    window, local = _windows(raw, known, where)
    rope = _rope(raw, known, window, where)
    flags = {**PLAIN, **known.flags}
    flags |= {ours: raw.get(key, PLAIN[ours]) for ours, key in known.reads.items()}
    return DecoderConfig(
        **{ours: raw[theirs] for theirs, ours in _SIZES.items()},
        # Configs written before grouped-query attention lack the key.
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim"),
        max_position_embeddings=raw["max_position_embeddings"],
        rms_norm_eps=raw["rms_norm_eps"],
        tie_word_embeddings=raw["tie_word_embeddings"],
        sliding_window=window,
        sliding_layers=local,
        model_type=raw["model_type"],
        **flags | rope,
    )


def _check_kinds(raw: dict, where: str) -> None:
    """Sizes are whole numbers, factors numbers; both more than 0."""
    whole = (*_SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings")
    for key in (*whole, "rms_norm_eps", "rope_theta"):
        value = raw.get(key)
        kinds = int if key in whole else int | float
        number = isinstance(value, kinds) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < 2**63):
            expected = "a whole number" if key in whole else "a number"
            raise ValueError(
                f"{where}: {key} is {value!r}; expected {expected}, more than 0"
            )


def config_to_json(config: DecoderConfig, dtype: str) -> dict:
    """The config.json of a decoder, readable by transformers 4 and 5.

    Args:
        config: the decoder.
        dtype: the stored dtype's name, "bfloat16".

    Raises:
        ValueError: flags that checkpoints of its model_type do not have.
    """
    known = checked(config)
    rope, scaling = {"rope_type": "default"}, config.rope_scaling
    if scaling is not None:
        numbers = dataclasses.asdict(scaling).items()
        rope = {
            "rope_type": next(k for k, v in _KINDS.items() if isinstance(scaling, v)),
            **{key: value for key, value in numbers if value is not None},
        }
    reads = {key: getattr(config, ours) for ours, key in known.reads.items()}
    if "partial_rotary_factor" in reads:
        rope["partial_rotary_factor"] = config.partial_rotary_factor
    if "query_pre_attn_scalar" in reads:
        reads["query_pre_attn_scalar"] = config.query_pre_attn_scalar or config.head_dim
    parameters = {**rope, "rope_theta": config.rope_theta}
    beside = {}
    if known.rope_by_layer:
        local = config.local_rope_theta or config.rope_theta
        parameters = {
            _FULL: parameters,
            _WINDOW: {"rope_type": "default", "rope_theta": local},
        }
        beside = {"rope_local_base_freq": local}
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
        **reads,
        **_written_windows(config, known),
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_parameters": parameters,
        "dtype": dtype,
        # The same in transformers 4's words.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        **beside,
        "torch_dtype": dtype,
    }


def _windows(
    raw: dict, known: Family, where: str
) -> tuple[int | None, tuple[bool, ...] | None]:
    """Window and the layers that have it."""
    given = raw.get("layer_types")
    if known.local in (None, all_layers):
        # transformers does not read the key then; it may only repeat what is so.
        kinds = set(given or ())
        supported = f"{_FULL} in every layer"
        agrees = kinds <= {_FULL}
        if known.local is all_layers and raw["sliding_window"] is not None:
            supported = f"{_WINDOW} in every layer"
            agrees = kinds <= {_WINDOW}
        _refuse_unless(agrees, "layer_types", raw, supported, where)
        return (None if known.local is None else raw["sliding_window"]), None
    switched_off = known.switch is not None and not raw.get(known.switch)
    window = None if switched_off else raw["sliding_window"]
    if given is None:
        local = known.local(raw)
    else:
        supported = f"{_FULL} or {_WINDOW} for each layer"
        fits = len(given) == raw["num_hidden_layers"] and {*given} <= {_FULL, _WINDOW}
        _refuse_unless(fits, "layer_types", raw, supported, where)
        local = [kind == _WINDOW for kind in given]
        contradicts = window is None and any(local)
        supported = f"{_FULL} in every layer, since there is no window"
        _refuse_unless(not contradicts, "layer_types", raw, supported, where)
    return window, None if window is None else tuple(local)


def _written_windows(config: DecoderConfig, known: Family) -> dict:
    """The keys that say which layers have a window."""
    if known.local is None:
        return {}
    window, found = config.sliding_window, {"sliding_window": config.sliding_window}
    if known.switch is not None:
        found[known.switch] = window is not None
    if known.local is all_layers or (known.switch is not None and window is None):
        return found
    found["layer_types"] = [
        _FULL if window is None else _WINDOW for window in config.windows
    ]
    if "max_window_layers" in known.defaults:
        # For readers that know no layer_types.
        found["max_window_layers"] = config.windows.count(None)
    return found


def _rope(raw: dict, known: Family, window: int | None, where: str) -> dict:
    """The rotary fields of the config."""
    # transformers lets rope_scaling (its version 4) go before rope_parameters (5).
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    found = raw.get(key) or {}
    local = None
    if known.rope_by_layer:
        both = raw.get("rope_parameters") or {}
        nested = {*both} <= {_FULL, _WINDOW}
        supported = f"a part for {_FULL} and one for {_WINDOW}"
        _refuse_unless(nested, "rope_parameters", raw, supported, where)
        found = {**(both.get(_FULL) or {}), **(raw.get("rope_scaling") or {})}
        of_window = both.get(_WINDOW) or {}
        plain = {*of_window} <= {"rope_type", "rope_theta"}
        plain &= of_window.get("rope_type") in (None, "default")
        supported = f"rope_type default in {_WINDOW}"
        _refuse_unless(plain, "rope_parameters", raw, supported, where)
        local = float(of_window.get("rope_theta") or raw["rope_local_base_freq"])
    kind = found.get("rope_type") or found.get("type") or "default"
    share = found.get("partial_rotary_factor") or raw.get("partial_rotary_factor")
    supported = f"rope_type {', '.join(known.rope)}"
    if "partial_rotary_factor" not in known.reads:
        name = key if found.get("partial_rotary_factor") else "partial_rotary_factor"
        whole = f"{supported}, over the whole head"
        _refuse_unless(share in (None, 1.0), name, raw, whole, where)
    _refuse_unless(kind in known.rope, key, raw, supported, where)
    theta = found.get("rope_theta") or raw["rope_theta"]
    return {
        "rope_theta": float(theta),
        "rope_scaling": _scaling(kind, found, raw, key, where),
        "partial_rotary_factor": float(share or 1.0),
        "local_rope_theta": None if window is None else local,
    }


def _scaling(kind, found, raw, key, where):
    """The scaling of one kind, from its dict."""
    made = _KINDS.get(kind)
    fields = dataclasses.fields(made) if made else ()
    names = {field.name: field.default for field in fields}
    strange = sorted({*found} - {*names} - _BESIDE)
    _refuse_unless(not strange, key, raw, f"{kind} without {', '.join(strange)}", where)
    if made is None:
        return None
    given = {name: found[name] for name in names if found.get(name) is not None}
    if "original_max_position_embeddings" in names:
        given.setdefault(
            "original_max_position_embeddings", raw["max_position_embeddings"]
        )
    needed = [name for name, default in names.items() if default is dataclasses.MISSING]
    missing = [name for name in needed if name not in given]
    supported = f"{kind} with {', '.join(needed)}"
    _refuse_unless(not missing, key, raw, supported, where)
    whole = ("original_max_position_embeddings", "truncate")
    return made(**{k: v if k in whole else float(v) for k, v in given.items()})


def _refuse_unless(supports, key, raw, supported, where):
    if not supports:
        raise ValueError(
            f"{where}: {key} is {raw.get(key)!r}, which changes the maths in a way "
            f"not implemented here; supported: {supported}."
        )
