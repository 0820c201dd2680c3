"""Model families as data: tensor names, flags and config.json keys of checkpoints.

`FAMILIES` determines import, export, adapters and shape checks. A family that differs
from these only in names and flags is one more entry.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from targetsft_jax.keys import shown
from targetsft_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A checkpoint tensor, or one per layer if its key contains `{layer}`.

    Attributes:
        key: its name in the checkpoint.
        paths: paths of its parameters; with `{layer}`, the leading axis of a parameter
            is the layer. Several parameters are fused: their rows are concatenated in
            this order.
        transposed: True if it is stored as `[out, in]` and the parameter is
            `[in, out]`.
        flag: DecoderConfig field that must be true for the tensor to exist.
    """

    key: str
    paths: tuple[tuple[str, ...], ...]
    transposed: bool = False
    flag: str | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints of one `model_type`.

    Attributes:
        architecture: class name in config.json's `architectures`.
        models: public names of its models, for documentation.
        tensors: every tensor of a checkpoint.
        flags: DecoderConfig fields with one value in all checkpoints of the family,
            where it differs from `PLAIN`.
        reads: DecoderConfig field -> config.json key with its value.
        only: config.json key that would change the decoder's function -> the only
            implemented value; an absent key or null counts as that value.
        defaults: values of absent keys, where they differ from `DEFAULTS`.
        local: config.json without `layer_types` -> for each layer, True if it has the
            window; None for a family without windows.
        switch: config.json key that must be true for windows to apply.
        rope: kinds of rotary scaling that transformers implements for the family.
        rope_by_layer: True if layers with a window have another base and no scaling.
    """

    architecture: str
    models: str
    tensors: tuple[Tensor, ...]
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: Mapping[str, object] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    local: Callable[[Mapping[str, Any]], list[bool]] | None = None
    switch: str | None = None
    rope: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    rope_by_layer: bool = False


PLAIN: Mapping[str, object] = {
    "qkv_bias": False,
    "o_bias": False,
    "qk_norm": False,
    "unit_offset": False,
    "sandwich_norms": False,
    "scale_embedding": False,
    "activation": "silu",
    "partial_rotary_factor": 1.0,
    "query_pre_attn_scalar": None,
    "attn_logit_softcap": None,
    "final_logit_softcap": None,
}
"""Values of the flags in a decoder without the features of particular families."""

DEFAULTS: Mapping[str, object] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
"""Defaults of transformers for absent config.json keys, in most families."""


def _single(key: str, *path: str, flag: str | None = None) -> Tensor:
    return Tensor(key, (path,), flag=flag)


def _norm(name: str, *path: str, flag: str | None = None) -> Tensor:
    key = f"model.layers.{{layer}}.{name}.weight"
    return _single(key, "layers", *path, flag=flag)


def _kernel(module: str, *paths: tuple[str, ...]) -> Tensor:
    """Weight of a linear layer; several paths for fused weights."""
    key = f"model.layers.{{layer}}.{module}.weight"
    return Tensor(
        key, tuple(("layers", *path, "kernel") for path in paths), transposed=True
    )


def _bias(module: str, *path: str, flag: str) -> Tensor:
    key = f"model.layers.{{layer}}.{module}.bias"
    return _single(key, "layers", *path, "bias", flag=flag)


_EMBED = _single("model.embed_tokens.weight", "embed")
_INPUT_NORM = _norm("input_layernorm", "input_norm")
_MLP_NORM = _norm("post_attention_layernorm", "post_norm")
_Q, _K, _V, _O = (("attention", name) for name in "qkvo")
_GATE, _UP, _DOWN = (("mlp", name) for name in ("gate", "up", "down"))
_ATTENTION = (
    _kernel("self_attn.q_proj", _Q),
    _bias("self_attn.q_proj", *_Q, flag="qkv_bias"),
    _kernel("self_attn.k_proj", _K),
    _bias("self_attn.k_proj", *_K, flag="qkv_bias"),
    _kernel("self_attn.v_proj", _V),
    _bias("self_attn.v_proj", *_V, flag="qkv_bias"),
    _kernel("self_attn.o_proj", _O),
    _bias("self_attn.o_proj", *_O, flag="o_bias"),
    _norm("self_attn.q_norm", "attention", "q_norm", flag="qk_norm"),
    _norm("self_attn.k_norm", "attention", "k_norm", flag="qk_norm"),
)
_MLP = (
    _kernel("mlp.gate_proj", _GATE),
    _kernel("mlp.up_proj", _UP),
    _kernel("mlp.down_proj", _DOWN),
)
_ENDS = (
    _single("model.norm.weight", "final_norm"),
    _single("lm_head.weight", "head"),
)

_LLAMA_TENSORS = (_EMBED, _INPUT_NORM, *_ATTENTION, _MLP_NORM, *_MLP, *_ENDS)

# `post_attention_layernorm` normalizes the input of the MLP in llama, and the output of
# attention in gemma.
_GEMMA_TENSORS = (
    _EMBED,
    _INPUT_NORM,
    *_ATTENTION,
    _norm("post_attention_layernorm", "attention_out_norm"),
    _norm("pre_feedforward_layernorm", "post_norm"),
    *_MLP,
    _norm("post_feedforward_layernorm", "mlp_out_norm"),
    *_ENDS,
)

_PHI3_TENSORS = (
    _EMBED,
    _INPUT_NORM,
    _kernel("self_attn.qkv_proj", _Q, _K, _V),
    _kernel("self_attn.o_proj", _O),
    _MLP_NORM,
    _kernel("mlp.gate_up_proj", _GATE, _UP),
    _kernel("mlp.down_proj", _DOWN),
    *_ENDS,
)


def all_layers(raw: Mapping[str, Any]) -> list[bool]:
    """A window in every layer, for families whose config.json has no `layer_types`."""
    return [True] * raw["num_hidden_layers"]


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
        tensors=_LLAMA_TENSORS,
        reads=_BIASES,
        only={**_COMMON, **_NO_WINDOW, "mlp_bias": False},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5 (also Math)",
        tensors=_LLAMA_TENSORS,
        flags={"qkv_bias": True},
        only=_COMMON,
        defaults=_QWEN_DEFAULTS,
        local=_from_max_window_layers,
        switch="use_sliding_window",
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        models="Qwen3 (dense)",
        tensors=_LLAMA_TENSORS,
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
        tensors=_LLAMA_TENSORS,
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=all_layers,
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM",
        models="Gemma-2",
        tensors=_GEMMA_TENSORS,
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
        tensors=_GEMMA_TENSORS,
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
        tensors=_PHI3_TENSORS,
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
