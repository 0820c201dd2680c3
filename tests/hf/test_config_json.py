"""config.json: both spellings are read; what we would compute wrongly is refused."""

import json
import warnings

import pytest

from targetsft_jax.hf.config_json import config_from_json, config_to_json
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig, RopeScaling

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


def test_old_and_new_spelling_agree():
    want = RopeScaling(8.0, 1.0, 4.0, 8192)
    new = read(rope_parameters={**LLAMA3, "rope_theta": 5e5}, dtype="bfloat16")
    old = read(rope_scaling=LLAMA3, rope_theta=5e5, torch_dtype="bfloat16")
    older = {"type" if k == "rope_type" else k: v for k, v in LLAMA3.items()}
    assert new == old == read(rope_scaling=older, rope_theta=5e5)
    assert new.rope_scaling == want and new.rope_theta == 5e5


def test_absent_keys_mean_what_transformers_means():
    config = config_from_json(QWEN, "here")
    assert (config.rope_theta, config.rms_norm_eps) == (10_000.0, 1e-6)
    assert not config.tie_word_embeddings and config.qkv_bias
    assert config.head_dim == 4 and not read().qkv_bias
    assert read(num_key_value_heads=None).num_kv_heads == 4
    original = {k: v for k, v in LLAMA3.items() if "original" not in k}
    scaled = read(rope_scaling=original, max_position_embeddings=777)
    assert scaled.rope_scaling.original_max_position_embeddings == 777


REFUSED = {
    "family": ({"model_type": "gemma2"}, "'gemma2'.*llama, qwen2"),
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
    "attention bias": ({"attention_bias": True}, "attention_bias is True.*False"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias is True"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.*yarn.*llama3"),
    "dynamic": ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters"),
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


def test_attention_dropout_is_not_ignored_in_silence():
    with pytest.warns(UserWarning, match="here/config.json: .*dropout is 0.1.*never"):
        assert read(attention_dropout=0.1) == read()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(attention_dropout=0.0)
        read(attention_dropout=None)


@pytest.mark.parametrize("scaling", [None, RopeScaling(8.0, 1.0, 4.0, 8192)])
def test_written_is_read_back(scaling):
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
    written = json.loads(json.dumps(config_to_json(config, "bfloat16")))
    assert config_from_json(written, "there") == config
    new = {k: v for k, v in written.items() if k not in ("rope_theta", "rope_scaling")}
    old = {k: v for k, v in written.items() if k != "rope_parameters"}
    assert config_from_json(new, "") == config_from_json(old, "") == config


def test_transformers_reads_what_we_write(tmp_path):
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
