"""Config, tokenizer and generation config of an export, as AutoTokenizer reads them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import hf_folders as checkpoints
from tokenizers.normalizers import Lowercase

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf import exporter
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params


@pytest.fixture
def tiny(tmp_path):
    folder = checkpoints.write(tmp_path / "theirs", checkpoints.tensors())
    config = load_config(folder)
    return config, load_params(folder, config, dtype=jnp.bfloat16)


def test_extra_config(tmp_path, tiny):
    config, params = tiny
    extra = {"eos_token_id": [3, 4], "note": "trained here"}
    save_pretrained(tmp_path / "out", config, params, extra_config=extra)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["note"] == "trained here" and document["dtype"] == "bfloat16"
    assert document["eos_token_id"] == [3, 4] and document["bos_token_id"] is None
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [3, 4]}
    with pytest.raises(ValueError, match="extra_config may not set vocab_size"):
        save_pretrained(tmp_path / "o", config, params, extra_config={"vocab_size": 1})


def small_tokenizer(words):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", eos_token="<end>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"
    return tokenizer


def model_for(tokenizer, model_type):
    config = DecoderConfig(
        len(tokenizer),
        8,
        8,
        1,
        2,
        1,
        qkv_bias=model_type == "qwen2",
        model_type=model_type,
    )
    shapes = abstract_params(config)
    return config, jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)


def test_the_tokenizer_is_exported(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = small_tokenizer(["<unk>", "<pad>", "<end>", "yes", "no"])
    config, params = model_for(tokenizer, "llama")
    save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (document["eos_token_id"], document["pad_token_id"]) == (2, 1)
    back = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert back("yes no").input_ids == [3, 4]
    assert back.chat_template == tokenizer.chat_template


TURNS = [
    {"role": "user", "content": "1 + 1 = é?"},
    {"role": "assistant", "content": "2\n"},
]


def test_byte_tokenizer_round_trip(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = byte_tokenizer()
    config, params = model_for(tokenizer, "llama")
    save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    back = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert back.get_vocab() == tokenizer.get_vocab()
    assert sorted(back.all_special_ids) == list(range(256, 264))
    assert (back.pad_token_id, back.eos_token_id, back.bos_token_id) == (256, 257, None)
    options = dict(return_dict=True, return_assistant_tokens_mask=True)
    expected = tokenizer.apply_chat_template(TURNS, **options)
    assert sum(expected["assistant_masks"]) == 3  # two bytes and the end of the turn
    assert {**back.apply_chat_template(TURNS, **options)} == {**expected}
    save_pretrained(tmp_path / "out", config, params, tokenizer=back)  # and again


def test_several_chat_templates_are_replaced(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    config, params = model_for(tokenizer, "llama")
    for _ in range(2):
        save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    assert any(path.is_dir() for path in (tmp_path / "out").iterdir())


def test_a_tokenizer_that_autotokenizer_changes_is_refused(tmp_path, monkeypatch):
    """transformers loads a Qwen2Tokenizer, with one more token, from qwen2 folders."""
    tokenizer = byte_tokenizer()
    config, params = model_for(tokenizer, "qwen2")
    target = tmp_path / "out"
    save_pretrained(target, config, params)
    before = sorted(path.name for path in target.iterdir())
    monkeypatch.setattr(exporter, "_host_tensor", None)  # no weight is written
    with pytest.raises(ValueError) as error:
        save_pretrained(target, config, params, tokenizer=tokenizer)
    message = str(error.value)
    assert "model_type 'qwen2', AutoTokenizer loads a Qwen2Tokenizer" in message
    assert "token '<|endoftext|>': absent before, 264 after" in message
    # The combining accent: Qwen2Tokenizer composes it with the letter before it.
    assert "ids of a sample text: [101, 204, 129, " in message
    assert "model_type 'llama'" in message and "tokenizer=None" in message
    assert sorted(path.name for path in target.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_qwen_tokenizer_on_qwen2(tmp_path):
    from transformers import AutoTokenizer, Qwen2Tokenizer

    letters = {letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
    tokenizer = Qwen2Tokenizer(vocab={**letters, "ab": 27}, merges=[("a", "b")])
    config, params = model_for(tokenizer, "qwen2")
    save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    back = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert back("abc ab").input_ids == tokenizer("abc ab").input_ids == [27, 2, 26, 27]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: setattr(t, "pad_token", "<|end|>"), "pad_token_id: 256 before, 257"),
        (lambda t: setattr(t, "chat_template", "other"), "chat_template: .*'other'"),
        (
            lambda t: setattr(t.backend_tokenizer, "normalizer", Lowercase()),
            r"ids of a sample text: \[73, .*before, \[105, .*after, from id 2 on",
        ),
    ],
)
def test_differences_of_tokenizers_are_named(tmp_path, monkeypatch, change, message):
    from transformers import AutoTokenizer

    changed = byte_tokenizer()
    change(changed)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: changed)
    config, params = model_for(changed, "llama")
    with pytest.raises(ValueError, match=message):
        save_pretrained(tmp_path / "out", config, params, tokenizer=byte_tokenizer())
    assert not list(tmp_path.iterdir())


def test_tokenizer_larger_than_the_vocabulary(tmp_path, tiny):
    config, params = tiny
    tokenizer = small_tokenizer(["<unk>", "<pad>", "<end>", *map(str, range(60))])
    with pytest.raises(ValueError, match="tokenizer has 63.*vocab_size is 40"):
        save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
