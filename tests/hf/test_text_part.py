"""Config and tensors of the text part; a text model is unchanged."""

import json

import pytest

from targetsft_jax.hf.importer import load_config
from targetsft_jax.hf.text_part import text_config, text_tensors


def test_tensors_of_other_parts_are_left_out_and_no_others():
    tensors = {
        "language_model.model.norm.weight": 1,
        "language_model.lm_head.weight": 2,
        "vision_tower.x": 3,
        "model.multi_modal_projector.x": 4,
        "audio_tower.x": 5,
    }
    renamed = {"model.norm.weight": 1, "lm_head.weight": 2, "audio_tower.x": 5}
    assert text_tensors("gemma3_text", tensors) == renamed
    # Their names are unexpected in a family without other parts.
    assert text_tensors("llama", tensors) == tensors
    plain = {"model.norm.weight": 1, "vision_tower.x": 2}
    assert text_tensors("gemma3_text", plain) == plain


def test_a_text_model_is_unchanged():
    raw = {"model_type": "llama", "text_config": {"hidden_size": 3}}
    assert text_config(raw) is raw


def test_the_text_part_of_mistral3_names_its_family():
    text = {"model_type": "ministral3", "hidden_size": 8, "tie_word_embeddings": True}
    found = text_config({"model_type": "mistral3", "text_config": text})
    assert found == text
    raw = {"model_type": "mistral3", "text_config": text, "tie_word_embeddings": False}
    assert text_config(raw)["tie_word_embeddings"] is False
    # The default, by which transformers reads Mistral Small 3.1.
    found = text_config({"model_type": "mistral3", "text_config": {"hidden_size": 8}})
    assert (found["model_type"], found["tie_word_embeddings"]) == ("mistral", False)


def test_published_files_omit_default_sizes(tmp_path):
    """The text part of gemma-3-4b-it."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    document = {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="only its text part"):
        config = load_config(tmp_path)
    from transformers import Gemma3Config

    theirs = Gemma3Config.from_pretrained(tmp_path).text_config
    assert config.vocab_size == theirs.vocab_size
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 4, 256)
    has_window = [kind == "sliding_attention" for kind in theirs.layer_types]
    assert [window is not None for window in config.windows] == has_window
