"""Families whose layers have a mixture of experts in place of the MLP."""

from collections.abc import Mapping

from targetsft_jax.hf import family_tensors, layer_patterns
from targetsft_jax.hf.family import BIASES, COMMON, NO_WINDOW, QWEN_DEFAULTS, Family

_EXPERTS = {
    "num_experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "router_aux_loss_coef": "router_aux_loss_coef",
}

EXPERT_FAMILIES: Mapping[str, Family] = {
    "qwen3_moe": Family(
        architecture="Qwen3MoeForCausalLM",
        models="Qwen3 (mixtures of experts)",
        tensors=family_tensors.QWEN3_MOE,
        flags={"qk_norm": True},
        reads={
            **BIASES,
            **_EXPERTS,
            "expert_size": "moe_intermediate_size",
            "norm_topk_prob": "norm_topk_prob",
        },
        # No published model mixes dense layers with layers of experts.
        only={
            **COMMON,
            **NO_WINDOW,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        defaults={
            **QWEN_DEFAULTS,
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
            **COMMON,
            **NO_WINDOW,
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
    "olmoe": Family(
        architecture="OlmoeForCausalLM",
        models="OLMoE",
        tensors=family_tensors.QWEN3_MOE,
        flags={"qk_norm": True, "qk_norm_full": True},
        reads={
            **BIASES,
            **_EXPERTS,
            "expert_size": "intermediate_size",
            "norm_topk_prob": "norm_topk_prob",
        },
        only={**COMMON, "clip_qkv": None},
        defaults={
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "router_aux_loss_coef": 0.01,
        },
        aliases={"num_local_experts": "num_experts"},  # transformers 5
    ),
}
