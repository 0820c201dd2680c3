"""Tiny random models built by transformers, and their logits: the other side."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small enough that all three bands of wavelengths occur in a small head.
    "original_max_position_embeddings": 64,
}

CASES = {
    "qwen2-tied": dict(family=Qwen2Config, tie_word_embeddings=True),
    "qwen2-untied-gqa4": dict(
        family=Qwen2Config, num_attention_heads=8, num_key_value_heads=2
    ),
    "qwen2-mqa": dict(family=Qwen2Config, num_key_value_heads=1),
    "qwen2-wide-head": dict(family=Qwen2Config, head_dim=20),
    "llama-untied-mha": dict(family=LlamaConfig, num_key_value_heads=4),
    "llama-tied-gqa2": dict(family=LlamaConfig, tie_word_embeddings=True),
    "llama3-rope": dict(
        family=LlamaConfig, rope_parameters=LLAMA3_ROPE, max_position_embeddings=512
    ),
    "llama-narrow-head": dict(family=LlamaConfig, head_dim=6, rms_norm_eps=1e-5),
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
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
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
