"""Model families as data: tensor names, flags and config.json keys of checkpoints.

`FAMILIES` determines import, export, adapters and shape checks. A family that differs
from these only in names and flags is one more entry.
"""

from collections.abc import Mapping

from targetsft_jax.hf import family_tensors, layer_patterns
from targetsft_jax.hf.families_experts import EXPERT_FAMILIES
from targetsft_jax.hf.families_gemma import GEMMA_FAMILIES
from targetsft_jax.hf.family import BIASES, COMMON, NO_WINDOW, QWEN_DEFAULTS, Family

_MULTIPLIERS = {
    name: name
    for name in (
        "embedding_multiplier",
        "residual_multiplier",
        "attention_multiplier",
        "logits_scaling",
    )
}
_MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_CWM_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
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
        reads=BIASES,
        only={**COMMON, **NO_WINDOW, "mlp_bias": False},
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5 (also Math); R1-Distill-Qwen",
        tensors=family_tensors.LLAMA,
        flags={"qkv_bias": True},
        only=COMMON,
        defaults=QWEN_DEFAULTS,
        local=layer_patterns.from_max_window_layers,
        switch="use_sliding_window",
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        models="Qwen3 (dense)",
        tensors=family_tensors.LLAMA,
        flags={"qk_norm": True},
        reads=BIASES,
        only=COMMON,
        defaults={**QWEN_DEFAULTS, "head_dim": 128},
        local=layer_patterns.from_max_window_layers,
        switch="use_sliding_window",
    ),
    **EXPERT_FAMILIES,
    "mistral": Family(
        architecture="MistralForCausalLM",
        models="Mistral 7B, Small 3.x (also the text part of multimodal folders)",
        tensors=family_tensors.LLAMA,
        only={**COMMON, **NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=layer_patterns.all_layers,
    ),
    "ministral": Family(
        architecture="MinistralForCausalLM",
        models="Ministral 8B",
        tensors=family_tensors.LLAMA,
        only={**COMMON, **NO_WINDOW, "attention_bias": False},
        defaults={"max_position_embeddings": 131072, "sliding_window": 4096},
        local=layer_patterns.if_there_is_a_window,
    ),
    "ministral3": Family(
        architecture="Ministral3ForCausalLM",
        models="Ministral 3, Devstral 2 (also the text part of multimodal folders)",
        tensors=family_tensors.LLAMA,
        only={**COMMON, **NO_WINDOW, "attention_bias": False},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "rope_parameters": _MINISTRAL3_ROPE,
            "sliding_window": None,
        },
        local=layer_patterns.all_layers,
        rope=("yarn",),
        scales_queries=True,
    ),
    "smollm3": Family(
        architecture="SmolLM3ForCausalLM",
        models="SmolLM3",
        tensors=family_tensors.LLAMA,
        reads=BIASES,
        only={**COMMON, "mlp_bias": False},
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
        reads=BIASES,
        only=COMMON,
        defaults={"rms_norm_eps": 1e-5},
    ),
    "olmo3": Family(
        architecture="Olmo3ForCausalLM",
        models="OLMo-3",
        tensors=family_tensors.OLMO2,
        flags={**_POST_NORMS, "qk_norm": True, "qk_norm_full": True},
        reads=BIASES,
        only={**COMMON, "sliding_window_pattern": 4},
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
        reads={**BIASES, **_MULTIPLIERS},
        only={**COMMON, "mlp_bias": False},
        defaults=dict.fromkeys(_MULTIPLIERS.values(), 1.0),
    ),
    "hyperclovax": Family(
        architecture="HyperCLOVAXForCausalLM",
        models="HyperCLOVA X SEED Think 14B",
        tensors=family_tensors.HYPERCLOVAX,
        reads={**BIASES, **_MULTIPLIERS, "output_norms": "use_post_norm"},
        only={**COMMON, "mlp_bias": False},
        defaults={
            **dict.fromkeys(_MULTIPLIERS.values(), 1.0),
            "attention_multiplier": None,
            "use_post_norm": True,
        },
        # Its logits are multiplied by the key.
        reciprocals=("logits_scaling",),
    ),
    "seed_oss": Family(
        architecture="SeedOssForCausalLM",
        models="Seed-OSS",
        tensors=family_tensors.LLAMA,
        reads={"qkv_bias": "attention_bias", "o_bias": "attention_out_bias"},
        only={**COMMON, "mlp_bias": False},
        defaults={
            "max_position_embeddings": 524288,
            "head_dim": 128,
            "attention_bias": True,
        },
    ),
    "exaone": Family(
        architecture="ExaoneForCausalLM",
        models="EXAONE 3.0, 3.5, Deep",
        tensors=family_tensors.EXAONE,
        modules=family_tensors.LLAMA,
        reads=BIASES,
        only={**COMMON, "mlp_bias": False},
        defaults={
            "max_position_embeddings": 4096,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
        },
        aliases={
            "num_layers": "num_hidden_layers",
            "layer_norm_epsilon": "rms_norm_eps",
            "activation_function": "hidden_act",
        },
    ),
    "exaone4": Family(
        architecture="Exaone4ForCausalLM",
        models="EXAONE 4.0",
        tensors=family_tensors.OLMO2,
        flags={**_POST_NORMS, "qk_norm": True},
        only=COMMON,
        defaults={
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
        local=layer_patterns.all_but_last_of_period,
        rope_layers="windows",
    ),
    "internlm3": Family(
        architecture="InternLM3ForCausalLM",
        models="InternLM3",
        tensors=family_tensors.LLAMA,
        reads=BIASES,
        # transformers has one key for the biases of attention and MLP.
        only={**COMMON, "mlp_bias": False},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 32768,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
        },
        aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
        rope=("default", "linear", "dynamic", "llama3", "yarn"),
    ),
    "iquestcoder": Family(
        architecture="IQuestCoderForCausalLM",
        models="IQuest-Coder",
        tensors=family_tensors.LLAMA,
        reads=BIASES,
        only={**COMMON, **NO_WINDOW, "mlp_bias": False, "clip_qkv": None},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
        },
    ),
    "cwm": Family(
        architecture="CwmForCausalLM",
        models="CWM 32B",
        tensors=family_tensors.LLAMA,
        not_null=("bos_token_id",),
        only={**COMMON, "attention_bias": False, "mlp_bias": False},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "rope_parameters": _CWM_ROPE,
            "sliding_window": 8192,
        },
        local=layer_patterns.all_but_first_of_four,
    ),
    "helium": Family(
        architecture="HeliumForCausalLM",
        models="Helium 1",
        tensors=family_tensors.LLAMA,
        flags={"rope_interleaved": True},
        reads={"qkv_bias": "attention_bias"},
        only={**COMMON, "mlp_bias": False},
        defaults={
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 20,
            "rms_norm_eps": 1e-8,
            "rope_theta": 100_000.0,
        },
    ),
    "glm": Family(
        architecture="GlmForCausalLM",
        models="GLM-4 9B (first)",
        tensors=family_tensors.GLM,
        flags={"rope_interleaved": True},
        reads=_GLM_READS,
        only=COMMON,
        defaults=_GLM_DEFAULTS,
        rope=("default",),
    ),
    "glm4": Family(
        architecture="Glm4ForCausalLM",
        models="GLM-4 0414 (also Z1)",
        tensors=family_tensors.GLM4,
        flags={"rope_interleaved": True, "output_norms": True},
        reads=_GLM_READS,
        only=COMMON,
        defaults=_GLM_DEFAULTS,
        rope=("default",),
    ),
    "ernie4_5": Family(
        architecture="Ernie4_5ForCausalLM",
        models="ERNIE 4.5 (dense)",
        tensors=family_tensors.LLAMA,
        flags={"rope_interleaved": True},
        only={**COMMON, "use_bias": False},
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
        reads=BIASES,
        only=COMMON,
        defaults={"rms_norm_eps": 1e-5},
        rope=("default", "dynamic with alpha"),
    ),
    **GEMMA_FAMILIES,
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        models="Phi-3 4k and 128k, Phi-4, Phi-4-mini",
        tensors=family_tensors.PHI3,
        reads={"partial_rotary_factor": "partial_rotary_factor"},
        only={**COMMON, **NO_WINDOW, "attention_bias": False},
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
