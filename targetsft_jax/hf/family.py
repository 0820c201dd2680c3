"""A model family as data: its checkpoints' tensors, flags and config.json keys."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A checkpoint tensor, or one per layer if its key contains `{layer}`.

    With `{expert}` there is one per layer and expert, and the second axis of the
    parameter is the expert.

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
        modules: the same by the names of transformers' modules, as adapters have them;
            None where they are those of a checkpoint.
        not_null: config.json keys that transformers refuses as null.
        flags: DecoderConfig fields with one value in all checkpoints of the family,
            where it differs from `PLAIN`.
        reads: DecoderConfig field -> config.json key with its value.
        only: config.json key that would change the decoder's function -> the only
            implemented value; an absent key or null counts as that value. A tuple has
            several names of that value; the first is written.
        defaults: values of absent keys, where they differ from `DEFAULTS`.
        aliases: another name of a config.json key, in some versions -> the key.
        local: config.json without `layer_types` -> for each layer, True if it has the
            window; None for a family without windows.
        reciprocals: fields of `reads` whose config.json value is 1 / theirs.
        scales_queries: True if queries are scaled by their position, by
            `llama_4_scaling_beta` of the rotary section.
        switch: config.json key that must be true for windows to apply.
        rope: kinds of rotary scaling that transformers implements for the family.
        rope_by_layer: True if layers with a window have another base and no scaling.
        rope_layers: layers whose queries and keys rotate, where not all do:
            "no_rope_layers", the key of config.json with 1 for each of them, or
            "windows", the layers with a window if there is one.
    """

    architecture: str
    models: str
    tensors: tuple[Tensor, ...]
    modules: tuple[Tensor, ...] | None = None
    not_null: tuple[str, ...] = ()
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: Mapping[str, object] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    local: Callable[[Mapping[str, Any]], list[bool]] | None = None
    switch: str | None = None
    reciprocals: tuple[str, ...] = ()
    scales_queries: bool = False
    rope: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    rope_by_layer: bool = False
    rope_layers: str | None = None


PLAIN: Mapping[str, object] = {
    "qkv_bias": False,
    "o_bias": False,
    "qk_norm": False,
    "qk_norm_full": False,
    "qk_norm_rotated": False,
    "unit_offset": False,
    "input_norms": True,
    "output_norms": False,
    "scale_embedding": False,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": None,
    "logits_scaling": 1.0,
    "activation": "silu",
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "query_pre_attn_scalar": None,
    "attn_logit_softcap": None,
    "final_logit_softcap": None,
    "num_experts": 0,
    "experts_per_token": 0,
    "expert_size": None,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.0,
}
"""Values of the flags in a decoder without the features of particular families."""

DEFAULTS: Mapping[str, object] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
"""Defaults of transformers for absent config.json keys, in most families."""

COMMON = {"hidden_act": "silu", "quantization_config": None}
NO_WINDOW = {"use_sliding_window": False}
BIASES = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}
QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
