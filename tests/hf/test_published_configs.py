"""Published config.json files: their families, contexts, and numbers of parameters.

The counts are those of the models' pages, from the shapes of their tensors; those of
`COUNTED` were counted by transformers. Keys that were not looked up are absent, and
have the defaults of transformers. The files of HyperCLOVA X, IQuest-Coder and CWM were
not looked up.
"""

import warnings

import pytest

from targetsft_jax.hf.config_json import config_from_json
from targetsft_jax.hf.text_part import text_config
from targetsft_jax.models.decoder import num_parameters


def sizes(vocab, width, mlp, layers, heads, kv_heads, **keys):
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **keys,
    }


LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
MINISTRAL3 = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "rope_theta": 1000000.0,
    "rope_type": "yarn",
    "type": "yarn",
}
# Name -> config.json, number of parameters, and context.
PUBLISHED = {
    "DeepSeek-R1-Distill-Qwen-1.5B": (
        sizes(
            *(151936, 1536, 8960, 28, 12, 2),
            model_type="qwen2",
            hidden_act="silu",
            max_position_embeddings=131072,
            max_window_layers=21,
            rope_theta=10000,
            sliding_window=4096,
            tie_word_embeddings=False,
            use_mrope=False,
            use_sliding_window=False,
        ),
        1_777_088_000,
        131072,
    ),
    "DeepSeek-R1-Distill-Llama-8B": (
        sizes(
            *(128256, 4096, 14336, 32, 32, 8),
            model_type="llama",
            attention_bias=False,
            max_position_embeddings=131072,
            mlp_bias=False,
            pretraining_tp=1,
            rms_norm_eps=1e-5,
            rope_scaling=LLAMA3,
            rope_theta=500000.0,
            tie_word_embeddings=False,
        ),
        8_030_261_248,
        131072,
    ),
    "SmolLM3-3B": (
        sizes(
            *(128256, 2048, 11008, 36, 16, 4),
            model_type="smollm3",
            attention_bias=False,
            layer_types=["full_attention"] * 36,
            max_position_embeddings=65536,
            max_window_layers=28,
            mlp_bias=False,
            no_rope_layer_interval=4,
            no_rope_layers=[1, 1, 1, 0] * 9,
            pretraining_tp=2,
            rope_scaling=None,
            rope_theta=5000000.0,
            sliding_window=None,
            use_sliding_window=False,
        ),
        3_075_098_624,
        65536,
    ),
    "OLMo-2-0425-1B": (
        sizes(
            *(100352, 2048, 8192, 16, 16, 16),
            model_type="olmo2",
            max_position_embeddings=4096,
            rms_norm_eps=1e-6,
            rope_scaling=None,
            rope_theta=500000,
            tie_word_embeddings=False,
        ),
        1_484_916_736,
        4096,
    ),
    "granite-3.3-2b-instruct": (
        sizes(
            *(49159, 2048, 8192, 40, 32, 8),
            model_type="granite",
            attention_bias=False,
            attention_multiplier=0.015625,
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            max_position_embeddings=131072,
            mlp_bias=False,
            residual_multiplier=0.22,
            rms_norm_eps=1e-5,
            rope_scaling=None,
            rope_theta=10000000.0,
            tie_word_embeddings=True,
        ),
        2_533_539_840,
        131072,
    ),
    "Phi-4-mini-instruct": (
        sizes(
            *(200064, 3072, 8192, 32, 24, 8),
            model_type="phi3",
            attention_bias=False,
            full_attn_mod=1,
            interpolate_factor=1,
            lm_head_bias=False,
            max_position_embeddings=131072,
            mlp_bias=False,
            original_max_position_embeddings=4096,
            partial_rotary_factor=0.75,
            rope_scaling={
                "long_factor": [1.0] * 48,
                "short_factor": [1.0] * 48,
                "type": "longrope",
            },
            rope_theta=10000.0,
            sliding_window=262144,
            tie_word_embeddings=True,
        ),
        3_836_021_760,
        131072,
    ),
    "gemma-2b": (
        sizes(
            *(256000, 2048, 16384, 18, 8, 1),
            model_type="gemma",
            attention_bias=False,
            head_dim=256,
            hidden_act="gelu",
            hidden_activation=None,
            max_position_embeddings=8192,
            rope_theta=10000.0,
        ),
        2_506_172_416,
        8192,
    ),
    "gemma-3-4b-it": (  # its text part
        {
            "model_type": "gemma3",
            "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
        3_880_263_168,
        131072,
    ),
    "ERNIE-4.5-0.3B-PT": (
        sizes(
            *(103424, 1024, 3072, 18, 16, 2),
            model_type="ernie4_5",
            head_dim=128,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_scaling=None,
            rope_theta=500000.0,
            tie_word_embeddings=True,
            use_bias=False,
        ),
        360_748_032,
        131072,
    ),
}
COUNTED = {
    "Ministral-3-8B-Base-2512": (  # its text part
        {
            "model_type": "mistral3",
            "text_config": sizes(
                *(131072, 4096, 14336, 34, 32, 8),
                model_type="ministral3",
                head_dim=128,
                hidden_act="silu",
                max_position_embeddings=262144,
                rms_norm_eps=1e-5,
                rope_parameters=MINISTRAL3,
                sliding_window=None,
                tie_word_embeddings=False,
            ),
        },
        8_489_553_920,
        262144,
    ),
    "Mistral-Small-3.2-24B": (  # its text part
        {
            "model_type": "mistral3",
            "text_config": sizes(
                *(131072, 5120, 32768, 40, 32, 8),
                model_type="mistral",
                head_dim=128,
                hidden_act="silu",
                max_position_embeddings=131072,
                rms_norm_eps=1e-5,
                rope_theta=1000000000.0,
                sliding_window=None,
            ),
        },
        23_572_403_200,
        131072,
    ),
    "EXAONE-3.0-7.8B-Instruct": (
        {
            "activation_function": "silu",
            "attention_dropout": 0.0,
            "embed_dropout": 0.0,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 4096,
            "model_type": "exaone",
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_layers": 32,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": 102400,
        },
        7_818_448_896,
        4096,
    ),
    "internlm3-8b-instruct": (
        sizes(
            *(128512, 4096, 10240, 48, 32, 2),
            model_type="internlm3",
            bias=False,
            head_dim=128,
            max_position_embeddings=32768,
            qkv_bias=False,
            rms_norm_eps=1e-5,
            rope_scaling={"factor": 6.0, "rope_type": "dynamic"},
            rope_theta=50000000,
            tie_word_embeddings=False,
        ),
        8_804_241_408,
        32768,
    ),
    "helium-1-preview-2b": (
        sizes(
            *(48000, 2560, 7040, 24, 20, 20),
            model_type="helium",
            attention_bias=False,
            attention_dropout=0.0,
            head_dim=128,
            hidden_act="silu",
            max_position_embeddings=4096,
            mlp_bias=False,
            rms_norm_eps=1e-8,
            rope_theta=100000.0,
            tie_word_embeddings=False,
        ),
        2_172_643_840,
        4096,
    ),
    "vaultgemma-1b": (
        sizes(
            *(256000, 1152, 6912, 26, 4, 4),
            model_type="vaultgemma",
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=512,
        ),
        1_038_741_120,
        8192,
    ),
    "OLMoE-1B-7B-0924": (
        sizes(
            *(50304, 2048, 1024, 16, 16, 16),
            model_type="olmoe",
            hidden_act="silu",
            num_experts=64,
            num_experts_per_tok=8,
            router_aux_loss_coef=0.01,
            norm_topk_prob=False,
            tie_word_embeddings=False,
        ),
        6_919_161_856,
        4096,
    ),
}


@pytest.mark.parametrize("name", [*PUBLISHED, *COUNTED])
def test_parameters_and_context(name):
    raw, count, context = (PUBLISHED | COUNTED)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = config_from_json(text_config(raw), name)
    assert num_parameters(config) == count
    assert config.context_length == context
