"""Model families as data: tensor names, flags and config.json keys of checkpoints.

`FAMILIES` determines import, export, adapters and shape checks. A family that differs
from these only in names and flags is one more entry.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from targetsft_jax.hf import family_tensors
from targetsft_jax.hf.family import PLAIN, Family, all_layers
from targetsft_jax.keys import shown
from targetsft_jax.models.config import DecoderConfig


def _from_max_window_layers(raw: Mapping[str, Any]) -> list[bool]:
    return [n >= raw["max_window_layers"] for n in range(raw["num_hidden_layers"])]


def _all_but_last_of_period(raw: Mapping[str, Any]) -> list[bool]:
    period = raw["sliding_window_pattern"]
    return [(n + 1) % period != 0 for n in range(raw["num_hidden_layers"])]


_COMMON = {"hidden_act": "silu", "quantization_config": None}
_NO_WINDOW = {"use_sliding_window": False}
_BIASES = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}

_QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}

_GEMMA_FLAGS = {
    "unit_offset": True,
    "sandwich_norms": True,
    "scale_embedding": True,
    "activation": "gelu_tanh",
}
_GEMMA_ONLY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "quantization_config": None,
    "use_bidirectional_attention": False,
}
_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        models="Llama 2, 3.x; DeepSeekMath-7B",
        tensors=family_tensors.LLAMA,
        reads=_BIASES,
        only={**_COMMON, **_NO_WINDOW, "mlp_bias": False},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5 (also Math)",
        tensors=family_tensors.LLAMA,
        flags={"qkv_bias": True},
        only=_COMMON,
        defaults=_QWEN_DEFAULTS,
        local=_from_max_window_layers,
        switch="use_sliding_window",
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        models="Qwen3 (dense)",
        tensors=family_tensors.LLAMA,
        flags={"qk_norm": True},
        reads=_BIASES,
        only=_COMMON,
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        local=_from_max_window_layers,
        switch="use_sliding_window",
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        models="Mistral 7B",
        tensors=family_tensors.LLAMA,
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=all_layers,
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM",
        models="Gemma-2",
        tensors=family_tensors.GEMMA,
        flags=_GEMMA_FLAGS,
        reads={
            **_BIASES,
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "attn_logit_softcap": "attn_logit_softcapping",
            "final_logit_softcap": "final_logit_softcapping",
        },
        only={**_GEMMA_ONLY, "sliding_window_pattern": 2},
        defaults={
            **_GEMMA_DEFAULTS,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window_pattern": 2,
        },
        local=_all_but_last_of_period,
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        models="Gemma-3 (text)",
        tensors=family_tensors.GEMMA,
        flags={**_GEMMA_FLAGS, "qk_norm": True},
        reads={
            **_BIASES,
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "final_logit_softcap": "final_logit_softcapping",
        },
        # transformers reads the key, but does not apply the cap.
        only={**_GEMMA_ONLY, "attn_logit_softcapping": None},
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,
        },
        local=_all_but_last_of_period,
        rope_by_layer=True,
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        models="Phi-3 4k, Phi-4",
        tensors=family_tensors.PHI3,
        reads={"partial_rotary_factor": "partial_rotary_factor"},
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "partial_rotary_factor": 1.0,
        },
        local=all_layers,
        rope=("default",),
    ),
}

# Advice for unsupported families that resemble a supported one.
_INSTEAD = {
    "gemma3": "It is the multimodal Gemma-3; only its text part (gemma3_text) is "
    "supported. Extract it with transformers: "
    "full = Gemma3ForConditionalGeneration.from_pretrained(folder); "
    "text = Gemma3ForCausalLM(full.config.text_config); text.model.load_state_dict("
    "full.model.language_model.state_dict()); text.tie_weights(); "
    "text.save_pretrained(new_folder).",
    "gemma": "The norms of the first Gemma differ from Gemma-2; it is not implemented.",
}


def family(model_type: object, source: str) -> Family:
    """Look up the family of a `model_type`.

    Args:
        model_type: value in a config.json.
        source: origin of the value, for messages.

    Raises:
        ValueError: unknown model_type; lists the supported ones.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{source}: model_type is {shown(model_type)}; expected one of "
            f"{', '.join(sorted(FAMILIES))}. "
            + _INSTEAD.get(
                str(model_type),
                "A family with the same layers is one more entry in "
                "targetsft_jax/hf/families.py.",
            )
        )
    return FAMILIES[model_type]


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
