"""Tiny random models that transformers builds, and their logits: the parity oracle.

`CASES` lists them. A family's first case represents it where one case is enough, such
as in its golden file.
"""

import os

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from targetsft_jax.hf.families import FAMILIES

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small enough that all three bands of wavelengths occur in a small head.
    "original_max_position_embeddings": 64,
}

# A short original context, so that the ramp falls within the head's frequencies.
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
PARTIAL_ROPE = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.5,
}
# Texts of more than 17 tokens are long. Half of a head of 12 features rotates.
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.3, 2.0],
    "long_factor": [1.5, 4.0, 9.0],
}
# Positions of every 16 tokens have another factor of the queries.
SCALED_QUERIES = {**YARN_ROPE, "llama_4_scaling_beta": 0.5}
SCALED_QUERIES |= {"original_max_position_embeddings": 16, "mscale_all_dim": 0.0}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}

WINDOW, FULL = "sliding_attention", "full_attention"

GEMMA2 = dict(
    model_type="gemma2",
    head_dim=8,
    tie_word_embeddings=True,
    sliding_window=6,
    query_pre_attn_scalar=5,
    # Close to the values that they cap, so that they have an effect.
    attn_logit_softcapping=3.0,
    final_logit_softcapping=6.0,
)
GEMMA3 = dict(
    model_type="gemma3_text",
    head_dim=8,
    tie_word_embeddings=True,
    sliding_window=6,
    query_pre_attn_scalar=5,
    rope_parameters={
        "full_attention": {**LINEAR_ROPE, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
)

QWEN3_MOE = dict(
    model_type="qwen3_moe",
    head_dim=10,
    moe_intermediate_size=24,
    num_experts=4,
    num_experts_per_tok=2,
    norm_topk_prob=True,
    seed=2,  # one that does not repeat a token
)

# The first of each family is its representative (see `first_case`).
CASES = {
    "qwen2-tied": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen2-untied-gqa4": dict(
        model_type="qwen2", num_attention_heads=8, num_key_value_heads=2
    ),
    "qwen2-mqa": dict(model_type="qwen2", num_key_value_heads=1),
    "qwen2-wide-head": dict(model_type="qwen2", head_dim=20),
    "qwen2-yarn": dict(model_type="qwen2", rope_parameters=YARN_ROPE),
    "qwen2-window-above": dict(
        model_type="qwen2",
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=1,
    ),
    "qwen3-untied": dict(model_type="qwen3", head_dim=10),
    "qwen3-tied-mqa": dict(
        model_type="qwen3", head_dim=8, num_key_value_heads=1, tie_word_embeddings=True
    ),
    "qwen3-biases": dict(model_type="qwen3", head_dim=8, attention_bias=True),
    "llama3-rope": dict(
        model_type="llama", rope_parameters=LLAMA3_ROPE, max_position_embeddings=512
    ),
    "llama-untied-mha": dict(model_type="llama", num_key_value_heads=4),
    "llama-tied-gqa2": dict(model_type="llama", tie_word_embeddings=True),
    "llama-narrow-head": dict(model_type="llama", head_dim=6, rms_norm_eps=1e-5),
    "llama-linear-rope": dict(model_type="llama", rope_parameters=LINEAR_ROPE),
    "llama-yarn-parts": dict(
        model_type="llama",
        rope_parameters={
            **YARN_ROPE,
            "beta_fast": 8.0,
            "beta_slow": 0.5,
            "mscale": 1.5,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
    ),
    "llama-biases": dict(model_type="llama", attention_bias=True),
    "deepseek-math": dict(  # a llama with as many key heads as heads, untied
        model_type="llama",
        num_key_value_heads=4,
        max_position_embeddings=4096,
        pretraining_tp=1,
    ),
    "qwen3-moe": dict(QWEN3_MOE),
    "qwen3-moe-unnormalized": dict(QWEN3_MOE, norm_topk_prob=False),
    "mixtral": dict(
        model_type="mixtral",
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=None,
    ),
    "olmoe": dict(
        model_type="olmoe",
        num_experts=4,
        num_experts_per_tok=2,
        intermediate_size=24,
        seed=3,
    ),
    "mistral-window": dict(model_type="mistral", sliding_window=7),
    "mistral-no-window": dict(model_type="mistral", sliding_window=None, head_dim=12),
    "ministral-alternating": dict(
        model_type="ministral",
        head_dim=12,
        sliding_window=7,
        layer_types=[WINDOW, FULL, WINDOW],
    ),
    "ministral3": dict(
        model_type="ministral3", head_dim=12, rope_parameters=SCALED_QUERIES
    ),
    "ministral3-tied": dict(
        model_type="ministral3",
        head_dim=8,
        tie_word_embeddings=True,
        sliding_window=7,
        rope_parameters={**SCALED_QUERIES, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "smollm3-period-2": dict(
        model_type="smollm3", no_rope_layer_interval=2, tie_word_embeddings=True
    ),
    "smollm3-windows": dict(  # in the layers without positions
        model_type="smollm3",
        no_rope_layers=[0, 1, 0],
        use_sliding_window=True,
        sliding_window=7,
    ),
    "olmo2-gqa2": dict(model_type="olmo2", rope_parameters=YARN_ROPE),
    "olmo3-alternating": dict(
        model_type="olmo3",
        sliding_window=6,
        layer_types=[WINDOW, WINDOW, FULL],
        num_key_value_heads=4,
        rope_parameters={
            FULL: YARN_ROPE,
            WINDOW: {"rope_type": "default", "rope_theta": 100.0},
        },
    ),
    "granite-multipliers": dict(
        model_type="granite",
        embedding_multiplier=3.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
        logits_scaling=1.7,
    ),
    "hyperclovax-post-norms": dict(
        model_type="hyperclovax",
        embedding_multiplier=3.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
        logits_scaling=0.5,
    ),
    "hyperclovax-plain": dict(
        model_type="hyperclovax", use_post_norm=False, attention_bias=True
    ),
    "seed_oss-wide-head": dict(
        model_type="seed_oss", head_dim=12, attention_dropout=0.0, residual_dropout=0.0
    ),
    "exaone-tied": dict(
        model_type="exaone", rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True
    ),
    "exaone4-alternating": dict(
        model_type="exaone4", sliding_window=7, sliding_window_pattern=2
    ),
    "exaone4-no-window": dict(
        model_type="exaone4", sliding_window=None, layer_types=[FULL] * 3
    ),
    "internlm3": dict(
        model_type="internlm3",
        head_dim=12,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 6.0},
    ),
    "iquestcoder": dict(model_type="iquestcoder", head_dim=12),
    "cwm-alternating": dict(
        model_type="cwm",
        head_dim=12,
        sliding_window=7,
        rope_parameters=LLAMA3_ROPE,
        bos_token_id=1,
        eos_token_id=999,  # null would be two tokens
    ),
    "helium-bias": dict(model_type="helium", head_dim=8, attention_bias=True),
    "glm-bias": dict(model_type="glm", head_dim=8),
    "glm4-no-bias": dict(model_type="glm4", head_dim=12, attention_bias=False),
    "ernie4_5-tied": dict(model_type="ernie4_5", head_dim=8, tie_word_embeddings=True),
    "hunyuan-alpha": dict(
        model_type="hunyuan_v1_dense",
        head_dim=12,
        rope_parameters={
            "rope_type": "dynamic",
            "rope_theta": 10_000.0,
            "alpha": 50.0,
            "factor": 1.0,
            "beta_fast": 32,
        },
    ),
    "gemma-mqa": dict(
        model_type="gemma",
        head_dim=12,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
    "gemma2-left-over": dict(GEMMA2, num_hidden_layers=3),
    "gemma2-uncapped-gqa4": dict(
        GEMMA2,
        num_attention_heads=8,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
    "gemma2-biases": dict(GEMMA2, attention_bias=True, num_hidden_layers=2),
    "vaultgemma-left-over": dict({**GEMMA2, "model_type": "vaultgemma"}),
    "gemma3-short-period": dict(
        GEMMA3,
        num_hidden_layers=5,
        sliding_window_pattern=3,
        final_logit_softcapping=6.0,
        num_key_value_heads=1,
    ),
    "gemma3-left-over": dict(GEMMA3, num_hidden_layers=8),  # a period of 6 and 2 more
    "phi3-window-tied": dict(
        model_type="phi3",
        sliding_window=7,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    ),
    "phi3-gqa": dict(model_type="phi3", rms_norm_eps=1e-5),
    "phi3-partial-rotary": dict(
        model_type="phi3",
        rope_parameters=PARTIAL_ROPE,
    ),
    "phi3-longrope": dict(
        model_type="phi3",
        hidden_size=48,
        rope_parameters=LONG_ROPE,
        max_position_embeddings=68,
        original_max_position_embeddings=17,
    ),
}


def first_case(model_type):
    """Name of a family's first case, for tests that need one case per family."""
    return next(
        name for name, case in CASES.items() if case["model_type"] == model_type
    )


# Families whose decoder is that of others, up to the names of its tensors. Gradients,
# generation and the like are compared for them where the table of families is made.
ALIKE = {"ministral", "seed_oss", "exaone", "internlm3", "iquestcoder", "cwm", "helium"}
ALIKE |= {"vaultgemma", "olmoe"}
if os.environ.get("ALL_FAMILIES"):
    ALIKE = set()
ONE_EACH = {name: first_case(name) for name in FAMILIES if name not in ALIKE}


def build(*, model_type, seed=0, **overrides):
    """A transformers model with random parameters, norms and biases included, so that
    an omitted or swapped part shows."""
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
    config = AutoConfig.for_model(model_type, **{**settings, **overrides})
    # Other implementations of attention may omit a soft cap.
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
