"""Domains of config.json: hostile values are refused before anything is derived."""

import json
import time

import pytest

from targetsft_jax.hf.config_domains import check_config, check_token_ids
from targetsft_jax.hf.importer import load_config

SIZES = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"head_dim": 10**9}, "head_dim is 1000000000"),
        ({"head_dim": 2**14, "num_attention_heads": 2**14}, "head_dim is 16384 and"),
        (
            {"num_hidden_layers": 2.0},
            "num_hidden_layers is 2.0; expected a whole number",
        ),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"hidden_size": "16"}, "hidden_size is '16'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": 1}, "rope_theta is 1; expected a number, more than 1"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]; expected a section"),
        ({"rope_scaling": False}, "rope_scaling is False"),
        ({"rope_scaling": {"rope_type": []}}, "rope_scaling.rope_type is"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": "x"}},
            "rope_scaling.factor is 'x'",
        ),
        ({"rope_parameters": {"full_attention": [1]}}, "full_attention is"),
        ({"layer_types": 5}, "layer_types is 5; expected a list"),
        ({"layer_types": [[]]}, "layer_types is"),
        ({"layer_types": ["full_attention"] * 100_000}, "layer_types is"),
        (
            {"model_type": "gemma2", "sliding_window_pattern": 0},
            "sliding_window_pattern",
        ),
        ({"model_type": "qwen2", "max_window_layers": "x"}, "max_window_layers is 'x'"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ({"attention_dropout": "x"}, "attention_dropout is 'x'"),
        ({"eos_token_id": 1.5}, "eos_token_id is 1.5"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ],
    ids=str,
)
def test_a_hostile_value_names_file_and_key_in_no_time(changes, named, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SIZES | changes))
    began = time.perf_counter()
    with pytest.raises(ValueError, match=named) as error:
        load_config(tmp_path)
    assert time.perf_counter() - began < 1
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "nested levels"),
        ('{"vocab_size": 1, "vocab_size": 2}', "key 'vocab_size' twice"),
        ('{"vocab_size": ' + "1" * 5000 + "}", "an integer of 5,000 digits"),
        ("[]", "not a JSON object"),
        ("", "not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_hostile_file_is_named(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path} .*{message}.*download it again"):
        load_config(tmp_path)


def test_token_ids():
    check_token_ids({"eos_token_id": [1, 2], "pad_token_id": None}, "here")
    for value in ("x", [True], -1, {"a": 1}, [[1]], 2**31):
        with pytest.raises(ValueError, match="^here: eos_token_id is"):
            check_token_ids({"eos_token_id": value}, "here")


def test_published_values_are_accepted():
    scaling = {"rope_type": "yarn", "factor": 4.0, "truncate": False, "beta_fast": 32}
    check_config(SIZES | {"rope_scaling": scaling, "rope_theta": 5_000_000}, "here", {})
    check_config(SIZES | {"vocab_size": 262_208, "hidden_size": 16_384}, "here", {})
