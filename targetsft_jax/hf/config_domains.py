"""Domains of the keys of config.json, far above every published model.

They are checked before anything is derived from a value: a list of layers or of tensor
names, a table of rotary frequencies, a shape.
"""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.keys import Domain

MOST_LAYERS, MOST_FEATURES = 10_000, 2**20


def _whole(most: int, least: int = 1) -> Domain:
    return Domain(
        f"a whole number, {least} or more and at most {most:,}",
        lambda value: type(value) is int and least <= value <= most,
        largest=most,
    )


def _number(most: float) -> Domain:
    return Domain(
        f"a number, more than 0 and at most {most:g}",
        lambda value: type(value) in (int, float) and 0 < value <= most,
        largest=2**53,
    )


_FLAG = Domain("true or false", lambda value: type(value) is bool)
_TEXT = Domain("a text", lambda value: isinstance(value, str))
_SECTION = Domain("a section of keys", lambda value: isinstance(value, dict))
_TEXTS = Domain(
    f"a list of at most {MOST_LAYERS:,} texts",
    lambda value: (
        isinstance(value, list)
        and len(value) <= MOST_LAYERS
        and all(isinstance(item, str) for item in value)
    ),
)
_BITS = Domain(
    f"a list of at most {MOST_LAYERS:,} numbers, 0 or 1",
    lambda value: (
        isinstance(value, list)
        and len(value) <= MOST_LAYERS
        and all(type(item) is int and item in (0, 1) for item in value)
    ),
)
_PATTERN = Domain(
    f"a whole number, 0 or more and at most {MOST_LAYERS:,}, or a text of L and G",
    lambda value: (
        (type(value) is int and 0 <= value <= MOST_LAYERS)
        or (isinstance(value, str) and 0 < len(value) < 100 and {*value} <= {*"LG"})
    ),
    largest=MOST_LAYERS,
)
_TOKENS = Domain(
    "a token id or a list of them",
    lambda value: (
        _is_token(value)
        or (
            isinstance(value, list) and len(value) < 1000 and all(map(_is_token, value))
        )
    ),
)
_DROPOUT = Domain(
    "a number in [0, 1]",
    lambda value: type(value) in (int, float) and 0 <= value <= 1,
)
_WEIGHT = Domain(
    "a number, 0 or more and at most 1e6",
    lambda value: type(value) in (int, float) and 0 <= value <= 1e6,
    largest=2**53,
)
_THETA = Domain(
    "a number, more than 1 and at most 1e15",
    lambda value: type(value) in (int, float) and 1 < value <= 1e15,
    largest=2**53,
)
_FACTORS = Domain(
    f"a list of 1 to {MOST_FEATURES:,} numbers, more than 0 and at most 1e6",
    lambda value: (
        isinstance(value, list)
        and 0 < len(value) <= MOST_FEATURES
        and all(type(item) in (int, float) and 0 < item <= 1e6 for item in value)
    ),
)
_POSITIONS, _FACTOR, _SHARE = _whole(2**31 - 1), _number(1e6), _number(1)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


CONFIG: Mapping[str, Domain] = {
    "vocab_size": _whole(2**27),
    "hidden_size": _whole(MOST_FEATURES),
    "intermediate_size": _whole(2**22),
    "num_hidden_layers": _whole(MOST_LAYERS),
    "num_attention_heads": _whole(2**14),
    "num_key_value_heads": _whole(2**14),
    "head_dim": _whole(2**14),
    "max_position_embeddings": _POSITIONS,
    "original_max_position_embeddings": _POSITIONS,
    "sliding_window": _POSITIONS,
    "no_rope_layer_interval": _whole(MOST_LAYERS),
    "no_rope_layers": _BITS,
    "max_window_layers": _whole(2**31 - 1, least=0),
    "sliding_window_pattern": _PATTERN,
    "rms_norm_eps": _SHARE,
    "rope_theta": _THETA,
    "rope_local_base_freq": _THETA,
    "partial_rotary_factor": _SHARE,
    "query_pre_attn_scalar": _number(1e9),
    "attn_logit_softcapping": _number(1e9),
    "embedding_multiplier": _number(1e9),
    "residual_multiplier": _number(1e9),
    "attention_multiplier": _number(1e9),
    "logits_scaling": _number(1e9),
    "final_logit_softcapping": _number(1e9),
    "num_experts": _whole(2**14),
    "num_local_experts": _whole(2**14),
    "num_experts_per_tok": _whole(2**14),
    "moe_intermediate_size": _whole(2**22),
    "router_aux_loss_coef": _DROPOUT,
    "norm_topk_prob": _FLAG,
    "attention_dropout": _DROPOUT,
    "resid_pdrop": _DROPOUT,
    "residual_dropout": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "tie_word_embeddings": _FLAG,
    "attention_bias": _FLAG,
    "attention_out_bias": _FLAG,
    "mlp_bias": _FLAG,
    "use_sliding_window": _FLAG,
    "use_bias": _FLAG,
    "use_post_norm": _FLAG,
    "clip_qkv": _number(1e9),
    "use_bidirectional_attention": _FLAG,
    "hidden_act": _TEXT,
    "hidden_activation": _TEXT,
    "quantization_config": _SECTION,
    "layer_types": _TEXTS,
    "rope_scaling": _SECTION,
    "rope_parameters": _SECTION,
}
"""Key of config.json -> values; null counts as absent."""

TOKENS = {name: _TOKENS for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
"""Key of config.json and of generation_config.json -> values."""

ROPE: Mapping[str, Domain] = {
    "rope_type": _TEXT,
    "type": _TEXT,
    "rope_theta": _THETA,
    "partial_rotary_factor": _SHARE,
    "factor": _FACTOR,
    "alpha": _FACTOR,
    "short_factor": _FACTORS,
    "long_factor": _FACTORS,
    "low_freq_factor": _FACTOR,
    "high_freq_factor": _FACTOR,
    "original_max_position_embeddings": _POSITIONS,
    "attention_factor": _FACTOR,
    "beta_fast": _FACTOR,
    "beta_slow": _FACTOR,
    "mscale": _WEIGHT,
    "mscale_all_dim": _WEIGHT,
    "llama_4_scaling_beta": _WEIGHT,
    "truncate": _FLAG,
    "full_attention": _SECTION,
    "sliding_attention": _SECTION,
}
"""Key of a section about rotary embeddings -> values."""


def check_config(
    raw: Mapping[str, Any], where: str, aliases: Mapping[str, str]
) -> None:
    """Check the values of a config.json, rotary sections included.

    Args:
        raw: the parsed file.
        where: path of the file, for messages.
        aliases: other name of a key -> the key; a refusal has the name in the file.

    Raises:
        ValueError: a value outside the domain of its key; names file and key.
    """
    renamed = {name: CONFIG[key] for name, key in aliases.items() if key in CONFIG}
    _check(raw, {**renamed, **CONFIG}, f"{where}: ")
    check_token_ids(raw, where)
    for name in ("rope_scaling", "rope_parameters"):
        section = raw.get(name) or {}
        _check(section, ROPE, f"{where}: {name}.")
        for part in ("full_attention", "sliding_attention"):
            _check(section.get(part) or {}, ROPE, f"{where}: {name}.{part}.")
    heads, features = raw.get("num_attention_heads"), raw.get("head_dim")
    if heads and features and heads * features > MOST_FEATURES:
        raise ValueError(
            f"{where}: head_dim is {features} and num_attention_heads is {heads}; "
            f"expected a product of at most {MOST_FEATURES:,}"
        )


def check_token_ids(raw: Mapping[str, Any], where: str) -> None:
    """Check the special tokens of a config.json or generation_config.json.

    Raises:
        ValueError: as `check_config`.
    """
    _check(raw, TOKENS, f"{where}: ")


def _check(section: Mapping[str, Any], domains: Mapping[str, Domain], at: str) -> None:
    for name, domain in domains.items():
        value = section.get(name)
        refusal = domain.refusal(f"{at}{name}", value, nullable=True)
        if refusal is not None:
            raise ValueError(refusal.removesuffix(", or null"))
