"""Tiny random models built by transformers, and their logits: the other side."""

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small enough that all three bands of wavelengths occur in a small head.
    "original_max_position_embeddings": 64,
}

# A short original context, so that the ramp between fast and slow lies in the head.
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}

GEMMA2 = dict(
    family=Gemma2Config,
    head_dim=8,
    tie_word_embeddings=True,
    sliding_window=6,
    query_pre_attn_scalar=5,
    # Near to the sizes of what they cap, so that they bend.
    attn_logit_softcapping=3.0,
    final_logit_softcapping=6.0,
)
GEMMA3 = dict(
    family=Gemma3TextConfig,
    head_dim=8,
    tie_word_embeddings=True,
    sliding_window=6,
    query_pre_attn_scalar=5,
    rope_parameters={
        "full_attention": {**LINEAR_ROPE, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
)

CASES = {
    "qwen2-tied": dict(family=Qwen2Config, tie_word_embeddings=True),
    "qwen2-untied-gqa4": dict(
        family=Qwen2Config, num_attention_heads=8, num_key_value_heads=2
    ),
    "qwen2-mqa": dict(family=Qwen2Config, num_key_value_heads=1),
    "qwen2-wide-head": dict(family=Qwen2Config, head_dim=20),
    "qwen2-yarn": dict(family=Qwen2Config, rope_parameters=YARN_ROPE),
    "qwen2-window-above": dict(
        family=Qwen2Config,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
    ),
    "qwen3-untied": dict(family=Qwen3Config, head_dim=10),
    "qwen3-tied-mqa": dict(
        family=Qwen3Config, head_dim=8, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "qwen3-biases": dict(family=Qwen3Config, head_dim=8, attention_bias=True),
    "llama-untied-mha": dict(family=LlamaConfig, num_key_value_heads=4),
    "llama-tied-gqa2": dict(family=LlamaConfig, tie_word_embeddings=True),
    "llama3-rope": dict(
        family=LlamaConfig, rope_parameters=LLAMA3_ROPE, max_position_embeddings=512
    ),
    "llama-narrow-head": dict(family=LlamaConfig, head_dim=6, rms_norm_eps=1e-5),
    "llama-linear-rope": dict(family=LlamaConfig, rope_parameters=LINEAR_ROPE),
    "llama-yarn-parts": dict(
        family=LlamaConfig,
        rope_parameters={
            **YARN_ROPE,
            "beta_fast": 8.0,
            "beta_slow": 0.5,
            "mscale": 1.5,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
    ),
    "llama-biases": dict(family=LlamaConfig, attention_bias=True),
    "deepseek-math": dict(  # Llama-shaped, as many key heads as heads, untied
        family=LlamaConfig,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pretraining_tp=1,
    ),
    "mistral-window": dict(family=MistralConfig, sliding_window=7),
    "mistral-no-window": dict(family=MistralConfig, sliding_window=None, head_dim=12),
    "gemma2-left-over": dict(GEMMA2, num_hidden_layers=3),
    "gemma2-uncapped-gqa4": dict(
        GEMMA2,
        num_attention_heads=8,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
    "gemma2-biases": dict(GEMMA2, attention_bias=True, num_hidden_layers=2),
    "gemma3-left-over": dict(GEMMA3, num_hidden_layers=8),  # a period of 6, and 2
    "gemma3-short-period": dict(
        GEMMA3,
        num_hidden_layers=5,
        sliding_window_pattern=3,
        final_logit_softcapping=6.0,
        num_key_value_heads=1,
    ),
    "phi3-gqa": dict(family=Phi3Config, rms_norm_eps=1e-5),
    "phi3-window-tied": dict(
        family=Phi3Config,
        sliding_window=7,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    ),
    "phi3-partial-rotary": dict(
        family=Phi3Config,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
}
# One of each family, where one is enough.
ONE_EACH = {
    "qwen2": "qwen2-tied",
    "qwen3": "qwen3-untied",
    "llama": "llama3-rope",
    "mistral": "mistral-window",
    "gemma2": "gemma2-left-over",
    "gemma3_text": "gemma3-short-period",
    "phi3": "phi3-window-tied",
}


def build(*, family, seed=0, **overrides):
    """A transformers model with every parameter random: norms and biases too, so
    that a part left out or swapped shows."""
    settings = dict(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    config = family(**{**settings, **overrides})
    # The attention as it is written out: another one may leave out a soft cap.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    middle = 0 if config.model_type.startswith("gemma") else 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(middle + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model


def tokens(rows=2, length=40, vocab=61, seed=1):
    """[rows, length] int32."""
    shape = (rows, length)
    return np.random.default_rng(seed).integers(0, vocab, shape).astype(np.int32)


def logits(model, ids):
    """float32 logits [rows, length, V] of a transformers model."""
    with torch.no_grad():
        return model(torch.tensor(ids).long()).logits.float().numpy()
