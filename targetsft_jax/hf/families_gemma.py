"""Gemma: families with norms of 1 + w, scaled embeddings and a GELU."""

from collections.abc import Mapping

from targetsft_jax.hf import family_tensors, layer_patterns
from targetsft_jax.hf.family import BIASES, Family

_FLAGS = {
    "unit_offset": True,
    "output_norms": True,
    "scale_embedding": True,
    "activation": "gelu_tanh",
}
_ONLY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "quantization_config": None,
    "use_bidirectional_attention": False,
}
_DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA2_DEFAULTS = {
    **_DEFAULTS,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window_pattern": 2,
}
_GEMMA2_READS = {
    **BIASES,
    "query_pre_attn_scalar": "query_pre_attn_scalar",
    "attn_logit_softcap": "attn_logit_softcapping",
    "final_logit_softcap": "final_logit_softcapping",
}

GEMMA_FAMILIES: Mapping[str, Family] = {
    "gemma": Family(
        architecture="GemmaForCausalLM",
        models="Gemma (first), CodeGemma",
        tensors=family_tensors.LLAMA,
        flags={k: v for k, v in _FLAGS.items() if k != "output_norms"},
        reads=BIASES,
        # transformers reads "gelu" as its approximation in this family.
        only={**_ONLY, "hidden_act": ("gelu_pytorch_tanh", "gelu")},
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
        flags=_FLAGS,
        reads=_GEMMA2_READS,
        only={**_ONLY, "sliding_window_pattern": 2},
        defaults=_GEMMA2_DEFAULTS,
        local=layer_patterns.all_but_last_of_period,
    ),
    "vaultgemma": Family(
        architecture="VaultGemmaForCausalLM",
        models="VaultGemma 1B",
        tensors=family_tensors.VAULTGEMMA,
        flags={k: v for k, v in _FLAGS.items() if k != "output_norms"},
        reads=_GEMMA2_READS,
        only={**_ONLY, "sliding_window_pattern": 2},
        defaults=_GEMMA2_DEFAULTS,
        local=layer_patterns.all_but_last_of_period,
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        models="Gemma-3 (also the text part of multimodal folders)",
        tensors=family_tensors.GEMMA,
        flags={**_FLAGS, "qk_norm": True},
        reads={
            **BIASES,
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "final_logit_softcap": "final_logit_softcapping",
        },
        # transformers reads the key, but does not apply the cap.
        only={**_ONLY, "attn_logit_softcapping": None},
        defaults={
            **_DEFAULTS,
            "max_position_embeddings": 131072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,
        },
        local=layer_patterns.all_but_last_of_period,
        rope_by_layer=True,
    ),
}
