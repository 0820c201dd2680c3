"""Model families as data: tensor names, flags and config.json keys of checkpoints.

`FAMILIES` determines import, export, adapters and shape checks. A family that differs
from these only in names and flags is one more entry.
"""

from collections.abc import Mapping

from targetsft_jax.hf import family_tensors, layer_patterns
from targetsft_jax.hf.family import Family

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
    "output_norms": True,
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

_EXPERTS = {
    "num_experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "router_aux_loss_coef": "router_aux_loss_coef",
}
_POST_NORMS = {"input_norms": False, "output_norms": True}
_GLM_DEFAULTS = {
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}
_GLM_READS = {
    "qkv_bias": "attention_bias",
    "partial_rotary_factor": "partial_rotary_factor",
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        models="Llama 2, 3.x; DeepSeekMath-7B; R1-Distill-Llama",
        tensors=family_tensors.LLAMA,
        reads=_BIASES,
        only={**_COMMON, **_NO_WINDOW, "mlp_bias": False},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5 (also Math); R1-Distill-Qwen",
        tensors=family_tensors.LLAMA,
        flags={"qkv_bias": True},
        only=_COMMON,
        defaults=_QWEN_DEFAULTS,
        local=layer_patterns.from_max_window_layers,
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
        local=layer_patterns.from_max_window_layers,
        switch="use_sliding_window",
    ),
    "qwen3_moe": Family(
        architecture="Qwen3MoeForCausalLM",
        models="Qwen3 (mixtures of experts)",
        tensors=family_tensors.QWEN3_MOE,
        flags={"qk_norm": True},
        reads={
            **_BIASES,
            **_EXPERTS,
            "expert_size": "moe_intermediate_size",
            "norm_topk_prob": "norm_topk_prob",
        },
        # No published model mixes dense layers with layers of experts.
        only={
            **_COMMON,
            **_NO_WINDOW,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        defaults={
            **_QWEN_DEFAULTS,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "router_aux_loss_coef": 0.001,
        },
        aliases={"num_local_experts": "num_experts"},  # transformers 5
    ),
    "mixtral": Family(
        architecture="MixtralForCausalLM",
        models="Mixtral",
        tensors=family_tensors.MIXTRAL,
        flags={"norm_topk_prob": True},
        reads={
            **_EXPERTS,
            "num_experts": "num_local_experts",
            "expert_size": "intermediate_size",
        },
        only={
            **_COMMON,
            **_NO_WINDOW,
            "attention_bias": False,
            "router_jitter_noise": 0.0,
        },
        defaults={
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.001,
        },
        local=layer_patterns.all_layers,
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        models="Mistral 7B",
        tensors=family_tensors.LLAMA,
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=layer_patterns.all_layers,
    ),
    "ministral": Family(
        architecture="MinistralForCausalLM",
        models="Ministral 8B",
        tensors=family_tensors.LLAMA,
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=layer_patterns.if_there_is_a_window,
    ),
    "smollm3": Family(
        architecture="SmolLM3ForCausalLM",
        models="SmolLM3",
        tensors=family_tensors.LLAMA,
        reads=_BIASES,
        only={**_COMMON, "mlp_bias": False},
        defaults={
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
            "sliding_window": None,
            "no_rope_layer_interval": 4,
        },
        local=layer_patterns.without_positions,
        switch="use_sliding_window",
        rope_layers="no_rope_layers",
    ),
    "olmo2": Family(
        architecture="Olmo2ForCausalLM",
        models="OLMo-2",
        tensors=family_tensors.OLMO2,
        flags={**_POST_NORMS, "qk_norm": True, "qk_norm_full": True},
        reads=_BIASES,
        only=_COMMON,
        defaults={"rms_norm_eps": 1e-5},
    ),
    "olmo3": Family(
        architecture="Olmo3ForCausalLM",
        models="OLMo-3",
        tensors=family_tensors.OLMO2,
        flags={**_POST_NORMS, "qk_norm": True, "qk_norm_full": True},
        reads=_BIASES,
        only={**_COMMON, "sliding_window_pattern": 4},
        defaults={
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_local_base_freq": 500_000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
        local=layer_patterns.all_but_last_of_period,
        rope_by_layer=True,
    ),
    "granite": Family(
        architecture="GraniteForCausalLM",
        models="Granite 3.x (dense)",
        tensors=family_tensors.LLAMA,
        reads={
            **_BIASES,
            "embedding_multiplier": "embedding_multiplier",
            "residual_multiplier": "residual_multiplier",
            "attention_multiplier": "attention_multiplier",
            "logits_scaling": "logits_scaling",
        },
        only={**_COMMON, "mlp_bias": False},
        defaults={
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
    ),
    "seed_oss": Family(
        architecture="SeedOssForCausalLM",
        models="Seed-OSS",
        tensors=family_tensors.LLAMA,
        reads={"qkv_bias": "attention_bias", "o_bias": "attention_out_bias"},
        only={**_COMMON, "mlp_bias": False},
        defaults={
            "max_position_embeddings": 524288,
            "head_dim": 128,
            "attention_bias": True,
        },
    ),
    "exaone4": Family(
        architecture="Exaone4ForCausalLM",
        models="EXAONE 4.0",
        tensors=family_tensors.OLMO2,
        flags={**_POST_NORMS, "qk_norm": True},
        only=_COMMON,
        defaults={
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
        local=layer_patterns.all_but_last_of_period,
        rope_layers="windows",
    ),
    "glm": Family(
        architecture="GlmForCausalLM",
        models="GLM-4 9B (first)",
        tensors=family_tensors.GLM,
        flags={"rope_interleaved": True},
        reads=_GLM_READS,
        only=_COMMON,
        defaults=_GLM_DEFAULTS,
        rope=("default",),
    ),
    "glm4": Family(
        architecture="Glm4ForCausalLM",
        models="GLM-4 0414 (also Z1)",
        tensors=family_tensors.GLM4,
        flags={"rope_interleaved": True, "output_norms": True},
        reads=_GLM_READS,
        only=_COMMON,
        defaults=_GLM_DEFAULTS,
        rope=("default",),
    ),
    "ernie4_5": Family(
        architecture="Ernie4_5ForCausalLM",
        models="ERNIE 4.5 (dense)",
        tensors=family_tensors.LLAMA,
        flags={"rope_interleaved": True},
        only={**_COMMON, "use_bias": False},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": True,
        },
    ),
    "hunyuan_v1_dense": Family(
        architecture="HunYuanDenseV1ForCausalLM",
        models="Hunyuan 0.5B to 7B (dense)",
        tensors=family_tensors.HUNYUAN,
        flags={"qk_norm": True, "qk_norm_rotated": True},
        reads=_BIASES,
        only=_COMMON,
        defaults={"rms_norm_eps": 1e-5},
        rope=("default", "dynamic"),
    ),
    "gemma": Family(
        architecture="GemmaForCausalLM",
        models="Gemma (first), CodeGemma",
        tensors=family_tensors.LLAMA,
        flags={k: v for k, v in _GEMMA_FLAGS.items() if k != "output_norms"},
        reads=_BIASES,
        # transformers reads "gelu" as its approximation in this family.
        only={**_GEMMA_ONLY, "hidden_act": ("gelu_pytorch_tanh", "gelu")},
        defaults={
            "head_dim": 256,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
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
        local=layer_patterns.all_but_last_of_period,
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        models="Gemma-3 (also the text part of multimodal folders)",
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
        local=layer_patterns.all_but_last_of_period,
        rope_by_layer=True,
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        models="Phi-3 4k and 128k, Phi-4, Phi-4-mini",
        tensors=family_tensors.PHI3,
        reads={"partial_rotary_factor": "partial_rotary_factor"},
        only={**_COMMON, **_NO_WINDOW, "attention_bias": False},
        defaults={
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": 4096,
        },
        local=layer_patterns.all_layers,
        rope=("default", "longrope"),
    ),
}
