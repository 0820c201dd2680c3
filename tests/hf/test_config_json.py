"""config.json of transformers 4 and 5; unsupported values are refused."""

import json
import warnings
from math import log

import pytest

from targetsft_jax.hf.config_json import config_from_json, config_to_json
from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.rope import (
    DynamicScaling,
    LinearScaling,
    NtkScaling,
    RopeScaling,
    YarnScaling,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QWEN = {"model_type": "qwen2", **SIZES}
LLAMA = {"model_type": "llama", **SIZES}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(**changes):
    return config_from_json({**LLAMA, **changes}, "here/config.json")


def test_configs_of_both_versions_are_equal():
    expected = RopeScaling(8.0, 1.0, 4.0, 8192)
    new = read(rope_parameters={**LLAMA3, "rope_theta": 5e5}, dtype="bfloat16")
    old = read(rope_scaling=LLAMA3, rope_theta=5e5, torch_dtype="bfloat16")
    older = {"type" if k == "rope_type" else k: v for k, v in LLAMA3.items()}
    assert new == old == read(rope_scaling=older, rope_theta=5e5)
    assert new.rope_scaling == expected and new.rope_theta == 5e5


def test_absent_keys_have_the_defaults_of_transformers():
    config = config_from_json(QWEN, "here")
    assert (config.rope_theta, config.rms_norm_eps) == (10_000.0, 1e-6)
    assert not config.tie_word_embeddings and config.qkv_bias
    assert config.head_dim == 4 and not read().qkv_bias
    assert read(num_key_value_heads=None).num_kv_heads == 4
    original = {k: v for k, v in LLAMA3.items() if "original" not in k}
    scaled = read(rope_scaling=original, max_position_embeddings=777)
    assert scaled.rope_scaling.original_max_position_embeddings == 777


YARN = {"type": "yarn", "factor": 2.0}
REFUSED = {
    "family": ({"model_type": "gpt2"}, "'gpt2'.*llama, ministral, ministral3"),
    "multimodal": ({"model_type": "qwen3_vl"}, "'qwen3_vl'.*a part for images"),
    "no family": ({"model_type": None}, "model_type is None"),
    "no size": ({"hidden_size": None}, "hidden_size missing"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*silu"),
    "quantised": (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config.*gptq",
    ),
    "window": ({"use_sliding_window": True}, "use_sliding_window is True"),
    "layer types": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types.*sliding_attention.*full_attention in every layer",
    ),
    "attention bias": (
        {"model_type": "mistral", "attention_bias": True},
        "attention_bias is True.*False",
    ),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias is True"),
    "yarn without a factor": (
        {"rope_scaling": {"rope_type": "yarn"}},
        "rope_scaling.*yarn with factor",
    ),
    "dynamic": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "rope_parameters.*dynamic.*default, linear, llama3, yarn",
    ),
    "longrope": (
        {"rope_scaling": {"type": "longrope"}},
        "rope_scaling.*longrope.*rope_type default",
    ),
    "dynamic of hunyuan": (
        {
            "model_type": "hunyuan_v1_dense",
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        "rope_scaling.*dynamic with alpha",
    ),
    "another context of internlm3": (
        {
            "model_type": "internlm3",
            "rope_scaling": {
                "type": "dynamic",
                "factor": 2.0,
                "original_max_position_embeddings": 7,
            },
        },
        "rope_scaling.*original_max_position_embeddings 32,768, as max_position",
    ),
    "queries scaled in another family": (
        {"rope_scaling": {**YARN, "llama_4_scaling_beta": 0.1}},
        "rope_scaling.*yarn without llama_4_scaling_beta",
    ),
    "queries that are not scaled": (
        {"model_type": "ministral3", "rope_scaling": YARN},
        "rope_scaling.*yarn with llama_4_scaling_beta",
    ),
    "longrope without factors": (
        {"model_type": "phi3", "rope_scaling": {"type": "longrope"}},
        "rope_scaling.*longrope with short_factor, long_factor",
    ),
    "longrope of another width": (
        {
            "model_type": "phi3",
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0],
                "long_factor": [1.0, 2.0],
            },
        },
        "short_factor has 1 numbers; expected 2",
    ),
    "two original contexts": (
        {
            "model_type": "phi3",
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 2.0],
                "long_factor": [1.0, 2.0],
                "original_max_position_embeddings": 2048,
            },
        },
        "rope_scaling.*original_max_position_embeddings 4,096, as outside",
    ),
    # In this family, transformers reads these two as longrope, without its original
    # context.
    "su": ({"model_type": "phi3", "rope_scaling": {"type": "su"}}, "su.*default"),
    "yarn of phi": (
        {"model_type": "phi3", "rope_scaling": {"type": "yarn", "factor": 2.0}},
        "yarn.*default",
    ),
    "sections": (
        {"rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}},
        "rope_scaling.*without mrope_section",
    ),
    "more layer types than layers": (
        {"model_type": "qwen3", "layer_types": ["full_attention"] * 3},
        "layer_types.*for each layer",
    ),
    "other layer types": (
        {"model_type": "gemma2", "layer_types": ["full_attention", "chunked"]},
        "layer_types.*chunked.*full_attention or sliding_attention",
    ),
    "a window that is switched off": (
        {"model_type": "qwen2", "layer_types": ["sliding_attention"] * 2},
        "layer_types.*there is no window",
    ),
    "layer types of phi": (
        {
            "model_type": "phi3",
            "sliding_window": 9,
            "layer_types": ["full_attention"] * 2,
        },
        "layer_types.*sliding_attention in every layer",
    ),
    "a pattern without layer types": (
        {"model_type": "exaone4", "sliding_window_pattern": "LG"},
        "sliding_window_pattern is 'LG'.*a whole number, 1 or more",
    ),
    "no positions at all": (
        {"model_type": "exaone4", "layer_types": ["full_attention"] * 2},
        "layer_types.*since sliding_window is not null",
    ),
    "fewer numbers than layers": (
        {"model_type": "smollm3", "no_rope_layers": [1]},
        r"no_rope_layers is \[1\].*one number for each layer",
    ),
    "another period of olmo3": (
        {"model_type": "olmo3", "sliding_window_pattern": 6},
        "sliding_window_pattern is 6.*supported: 4",
    ),
    "activation of gemma": (
        {"model_type": "gemma2", "hidden_activation": "gelu"},
        "hidden_activation is 'gelu'.*gelu_pytorch_tanh",
    ),
    "looking ahead": (
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        "use_bidirectional_attention is True.*False",
    ),
    "a cap that transformers leaves out": (
        {"model_type": "gemma3_text", "attn_logit_softcapping": 50.0},
        "attn_logit_softcapping is 50.0.*None",
    ),
    "flat parameters where layers differ": (
        {"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e4}},
        "rope_parameters.*a part for full_attention and one for sliding_attention",
    ),
    "scaling in a window": (
        {
            "model_type": "gemma3_text",
            "rope_parameters": {
                "sliding_attention": {"rope_type": "linear", "factor": 2.0}
            },
        },
        "rope_parameters.*default in sliding_attention",
    ),
    "partial": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "partial inside": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "rope_parameters.*partial_rotary_factor",
    ),
    "incomplete llama3": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "llama3 with factor, low_freq_factor, high_freq_factor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    change, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"here/config.json: .*{message}"):
        read(**change)


def test_attention_dropout_is_warned_about():
    with pytest.warns(UserWarning, match="here/config.json: .*dropout is 0.1.*never"):
        assert read(attention_dropout=0.1) == read()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(attention_dropout=0.0)
        read(attention_dropout=None)


GEMMA = {k: v for k, v in SIZES.items() if k != "num_hidden_layers"}


def test_the_first_configs_of_gemma2():
    """Configs on the hub of version 4, without layer_types and tie_word_embeddings."""
    raw = {
        "model_type": "gemma2",
        **GEMMA,
        "num_hidden_layers": 5,
        "head_dim": 4,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 224,
        "rope_theta": 10000.0,
        "sliding_window": 16,
    }
    config = config_from_json(raw, "here")
    assert config.windows == (16, None, 16, None, 16)
    assert config.tie_word_embeddings and config.output_norms and config.unit_offset
    assert config.scale_embedding and config.activation == "gelu_tanh"
    assert (config.attn_logit_softcap, config.final_logit_softcap) == (50.0, 30.0)
    assert config.score_scale == 224**-0.5
    uncapped = config_from_json({**raw, "attn_logit_softcapping": None}, "here")
    assert uncapped.attn_logit_softcap is None  # null and an absent key differ
    del raw["attn_logit_softcapping"], raw["query_pre_attn_scalar"]
    absent = config_from_json(raw, "here")
    assert absent.attn_logit_softcap == 50.0 and absent.score_scale == 1 / 16


def test_the_first_configs_of_gemma3():
    raw = {
        "model_type": "gemma3_text",
        **GEMMA,
        "num_hidden_layers": 26,
        "rope_local_base_freq": 10_000,
        "rope_theta": 1_000_000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    }
    config = config_from_json(raw, "here")
    assert [n for n, w in enumerate(config.windows) if w is None] == [5, 11, 17, 23]
    assert config.windows[-2:] == (512, 512)
    assert config.rope_scaling == LinearScaling(8.0) and config.rope_theta == 1e6
    assert config.local_rope_theta == 1e4 and config.qk_norm
    assert config.final_logit_softcap is None and config.head_dim == 256
    for key in ("rope_theta", "rope_local_base_freq", "sliding_window_pattern"):
        del raw[key]
    assert config_from_json(raw, "here") == config


def test_windows_of_mistral_phi_and_qwen():
    def window(**changes):
        return config_from_json({**SIZES, **changes}, "here").windows

    assert window(model_type="mistral") == (4096, 4096)
    assert window(model_type="mistral", sliding_window=None) == (None, None)
    assert window(model_type="phi3") == (None, None)
    assert window(model_type="phi3", sliding_window=9) == (9, 9)
    assert window(model_type="qwen2", sliding_window=9) == (None, None)
    on = {"model_type": "qwen2", "use_sliding_window": True}
    assert window(**on, sliding_window=9) == (None, None)  # from the 29th layer on
    assert window(**on, sliding_window=9, max_window_layers=1) == (None, 9)


def test_partial_rotary_is_read_in_both_places():
    def share(**changes):
        raw = {**SIZES, "model_type": "phi3", "head_dim": 8, **changes}
        return config_from_json(raw, "here").rotary_dim

    assert share() == 8 and share(partial_rotary_factor=0.75) == 6
    inside = {"rope_type": "default", "partial_rotary_factor": 0.75}
    assert share(rope_parameters=inside) == 6


def test_longrope_of_phi_4_mini():
    """The keys of the published config, with other factors."""
    raw = {
        "model_type": "phi3",
        **SIZES,
        "hidden_size": 3072,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "long_factor": [1 + n / 10 for n in range(48)],
            "short_factor": [1.0] * 48,
            "type": "longrope",
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
    }
    config = config_from_json(raw, "here")
    assert config.context_length == 131072 and config.rotary_dim == 96
    assert config.rope_scaling.magnitude == (1 + log(32) / log(4096)) ** 0.5
    document = json.loads(json.dumps(config_to_json(config, "bfloat16")))
    # transformers 4 refuses a section with other keys.
    assert document["rope_scaling"] == raw["rope_scaling"]
    assert document["original_max_position_embeddings"] == 4096
    for absent in ("rope_parameters", "rope_scaling"):
        rest = {key: value for key, value in document.items() if key != absent}
        assert config_from_json(rest, "there") == config


ODD = {
    "llama": dict(rope_scaling=LinearScaling(2.0), o_bias=True, qkv_bias=True),
    "qwen2": dict(qkv_bias=True, sliding_window=7, sliding_layers=(False, True, True)),
    "qwen3": dict(qk_norm=True, rope_scaling=YarnScaling(4.0, 64, mscale=0.5)),
    "mistral": dict(sliding_window=7),
    "ministral": dict(sliding_window=7, sliding_layers=(False, True, True)),
    "smollm3": dict(
        o_bias=True,
        qkv_bias=True,
        rope_layers=(True, False, True),
        sliding_window=7,
        sliding_layers=(False, True, False),
    ),
    "olmo2": dict(rope_scaling=YarnScaling(4.0, 64)),
    "olmo3": dict(
        rope_scaling=YarnScaling(4.0, 64),
        sliding_window=7,
        sliding_layers=(True, True, False),
        local_rope_theta=77.0,
    ),
    "granite": dict(
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=1 / 64,
        logits_scaling=16.0,
    ),
    "seed_oss": dict(qkv_bias=True),
    "exaone4": dict(
        sliding_window=7,
        sliding_layers=(True, True, False),
        rope_layers=(True, True, False),
    ),
    "glm": dict(qkv_bias=True, partial_rotary_factor=0.5),
    "glm4": dict(partial_rotary_factor=0.5),
    "ernie4_5": dict(rope_theta=5e5),
    "hunyuan_v1_dense": dict(rope_scaling=NtkScaling(50.0)),
    "gemma": dict(rope_theta=1234.0, o_bias=True, qkv_bias=True),
    "gemma2": dict(
        query_pre_attn_scalar=5,
        attn_logit_softcap=2.0,
        final_logit_softcap=3.0,
        sliding_window=7,
        sliding_layers=(True, False, True),
    ),
    "gemma3_text": dict(
        query_pre_attn_scalar=5,
        rope_scaling=LinearScaling(8.0),
        sliding_window=7,
        sliding_layers=(True, True, False),
        local_rope_theta=77.0,
    ),
    "phi3": dict(sliding_window=7, partial_rotary_factor=0.5),
    "qwen3_moe": dict(
        num_experts=6,
        experts_per_token=3,
        expert_size=10,
        norm_topk_prob=True,
        router_aux_loss_coef=0.02,
    ),
    "mixtral": dict(
        num_experts=6,
        experts_per_token=3,
        expert_size=24,
        router_aux_loss_coef=0.02,
        sliding_window=7,
    ),
    "olmoe": dict(num_experts=6, experts_per_token=3, expert_size=24),
    "ministral3": dict(
        rope_scaling=YarnScaling(4.0, 64, llama_4_scaling_beta=0.1, mscale_all_dim=0.0),
        sliding_window=7,
    ),
    "hyperclovax": dict(
        residual_multiplier=0.22,
        attention_multiplier=1 / 64,
        logits_scaling=8.0,
        output_norms=True,
    ),
    "exaone": dict(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), rms_norm_eps=1e-4),
    "internlm3": dict(rope_scaling=DynamicScaling(6.0, 32768)),
    "iquestcoder": dict(o_bias=True, qkv_bias=True),
    "cwm": dict(
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
        sliding_window=7,
        sliding_layers=(False, True, True),
    ),
    "helium": dict(qkv_bias=True),
    "vaultgemma": dict(
        query_pre_attn_scalar=5,
        final_logit_softcap=3.0,
        sliding_window=7,
        sliding_layers=(True, False, True),
    ),
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_flag_of_a_family_is_written_and_read_back(model_type):
    plain = {**PLAIN, **FAMILIES[model_type].flags}
    config = DecoderConfig(
        **{"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24},
        **{"num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8},
        model_type=model_type,
        **plain | ODD[model_type],
    )
    document = json.loads(json.dumps(config_to_json(config, "bfloat16")))
    assert config_from_json(document, "there") == config
    old = {k: v for k, v in document.items() if k != "rope_parameters"}
    assert config_from_json(old, "there") == config
    new = {k: v for k, v in document.items() if k not in ("rope_theta", "rope_scaling")}
    assert config_from_json(new, "there") == config


@pytest.mark.parametrize(
    "model_type, change, message",
    [
        (
            "llama",
            {"qk_norm": True},
            "qk_norm is True; expected False.*'llama'",
        ),
        ("llama", {"sliding_window": 4}, "sliding_window is 4"),
        ("qwen2", {"qkv_bias": False}, "qkv_bias is False.*True"),
        ("mistral", {"final_logit_softcap": 3.0}, "final_logit_softcap is 3.0"),
        ("llama", {"o_bias": True}, "qkv_bias.*o_bias.*one attention_bias"),
        (
            "mistral",
            {"sliding_window": 4, "sliding_layers": (True, False)},
            "sliding_layers",
        ),
        ("llama", {"rope_layers": (True, False)}, "rope_layers is .*expected None"),
        (
            "exaone4",
            {"rope_layers": (True, False)},
            "rope_layers is .*expected None",
        ),
        ("granite", {"input_norms": False}, "input_norms is False"),
        ("mixtral", {}, "num_experts is 0; expected 1 or more"),
        ("qwen3", {"num_experts": 4, "experts_per_token": 2}, "num_experts is 4"),
    ],
)
def test_flags_that_a_family_does_not_have_are_refused(model_type, change, message):
    plain = {**PLAIN, **FAMILIES[model_type].flags}
    config = DecoderConfig(40, 16, 24, 2, 4, 2, model_type=model_type, **plain | change)
    with pytest.raises(ValueError, match=message):
        config_to_json(config, "float32")


@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 8192)])
def test_round_trip(scaling):
    config = DecoderConfig(
        40,
        16,
        24,
        2,
        4,
        2,
        rope_scaling=scaling,
        rope_theta=1234.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        qkv_bias=False,
        model_type="llama",
    )
    document = json.loads(json.dumps(config_to_json(config, "bfloat16")))
    assert config_from_json(document, "there") == config
    new = {k: v for k, v in document.items() if k not in ("rope_theta", "rope_scaling")}
    old = {k: v for k, v in document.items() if k != "rope_parameters"}
    assert config_from_json(new, "") == config_from_json(old, "") == config


def test_transformers_reads_our_config(tmp_path):
    from transformers import AutoConfig

    scaling = RopeScaling(8.0, 1.0, 4.0, 8192)
    config = DecoderConfig(
        40, 16, 24, 2, 4, 2, rope_scaling=scaling, qkv_bias=False, model_type="llama"
    )
    document = config_to_json(config, "bfloat16")
    (tmp_path / "config.json").write_text(json.dumps(document))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters == {**LLAMA3, "rope_theta": 1e6}
    assert theirs.tie_word_embeddings and theirs.head_dim == 4
    theirs.save_pretrained(tmp_path)
    assert load_config(tmp_path) == config


def test_load_config_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_config(tmp_path)
