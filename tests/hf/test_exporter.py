"""Exports: bit for bit, atomic, and never in place of files that are not exports."""

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


@pytest.mark.parametrize("limit", [10**9, 1500], ids=["single", "sharded"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_round_trip_is_bit_exact(tmp_path, family, limit):
    content = checkpoints.tensors(family, tied=False)
    folder = checkpoints.write(tmp_path / "theirs", content, family, tied=False)
    config = load_config(folder)
    # Through float32 master weights, which must lose nothing.
    params = load_params(folder, config, dtype=jnp.float32)
    target = tmp_path / "ours"
    save_pretrained(target, config, params, dtype="bfloat16", max_shard_bytes=limit)
    back = checkpoints.read(target)
    assert back.keys() == content.keys()
    for key, tensor in content.items():
        assert back[key].dtype == tensor.dtype
        assert back[key].tobytes() == tensor.tobytes(), key
    files = sorted(target.glob("*.safetensors"))
    index = target / "model.safetensors.index.json"
    assert index.is_file() == (len(files) > 1) == (limit == 1500)
    if limit == 1500:
        document = json.loads(index.read_text())
        assert document["weight_map"].keys() == content.keys()
        assert document["metadata"]["total_size"] == sum(
            tensor.nbytes for tensor in content.values()
        )
        assert all(len(file.read_bytes()) < 1500 + 2000 for file in files)


def test_sharded_params_export_the_same(tmp_path, tiny):
    config, params = tiny
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(leaf):
        spec = jax.sharding.PartitionSpec(*[None] * (leaf.ndim - 1), "a")
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    save_pretrained(tmp_path / "a", config, params)
    save_pretrained(tmp_path / "b", config, jax.tree.map(spread, params))
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_failure_leaves_the_earlier_export(tmp_path, tiny, monkeypatch):
    config, params = tiny
    target = tmp_path / "out"
    save_pretrained(target, config, params)
    before = (target / "model.safetensors").read_bytes()
    calls = []

    def fail(params, spec):
        calls.append(spec)
        if len(calls) == 5:
            raise OSError("disk full")
        return np.zeros(spec.shape, spec.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "_host_tensor", fail)
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(target, config, params)
    assert (target / "model.safetensors").read_bytes() == before
    bigger = jax.tree.map(lambda leaf: leaf + 1, params)
    save_pretrained(target, config, bigger)  # leftovers are no obstacle
    assert (target / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "theirs"]


def test_other_folders_are_not_replaced(tmp_path, tiny):
    config, params = tiny
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").touch()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").touch()
    for name in ("notes", "run", "file", "weights"):
        with pytest.raises(FileExistsError, match=name):
            save_pretrained(tmp_path / name, config, params)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", config, params)
    assert load_config(tmp_path / "empty") == config


def test_other_files_in_an_export_are_not_deleted(tmp_path, tiny):
    config, params = tiny
    target = tmp_path / "out"
    save_pretrained(target, config, params, max_shard_bytes=1500)
    save_pretrained(target, config, params)  # shards of an earlier export are replaced
    for number in range(6):
        (target / f"notes_{number}.md").write_text("seen in run 7")
    (target / "plots").mkdir()
    before = sorted(path.name for path in target.iterdir())
    with pytest.raises(FileExistsError, match=r"out exists.*notes_0.md.*and 2 more"):
        save_pretrained(target, config, params)
    assert sorted(path.name for path in target.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]
    for path in target.glob("notes*"):
        path.unlink()
    with pytest.raises(FileExistsError, match="plots/. Move"):
        save_pretrained(target, config, params)
    (target / "plots").rmdir()
    save_pretrained(target, config, params)


def test_parameters_that_do_not_fit(tmp_path, tiny):
    config, params = tiny
    wrong = {**params, "final_norm": params["final_norm"][:3], "extra": jnp.ones(2)}
    del wrong["embed"]
    with pytest.raises(ValueError) as error:
        save_pretrained(tmp_path / "out", config, wrong)
    message = str(error.value)
    assert "embed: found nothing, expected (40, 16)" in message
    assert "extra: found (2,), expected nothing" in message
    assert "final_norm: found (3,), expected (16,)" in message
    with pytest.raises(ValueError, match="int8.*float32, float16, bfloat16"):
        save_pretrained(tmp_path / "out", config, params, dtype=jnp.int8)
    assert not (tmp_path / "out").exists()


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
    want = tokenizer.apply_chat_template(TURNS, **options)
    assert sum(want["assistant_masks"]) == 3  # two bytes and the end of the turn
    assert {**back.apply_chat_template(TURNS, **options)} == {**want}
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


def test_all_processes_stop_if_the_primary_one_fails(tmp_path, tiny, monkeypatch):
    """The primary process broadcasts its failure before weights are gathered."""
    config, params = tiny
    (tmp_path / "file").touch()
    broadcasts = []

    def broadcast(value):
        broadcasts.append(bool(value))
        return np.asarray(True)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(exporter.multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(exporter, "_write_weights", None)
    with pytest.raises(FileExistsError, match="file is a file"):
        save_pretrained(tmp_path / "file", config, params)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(RuntimeError, match="process 0 could not begin.*file"):
        save_pretrained(tmp_path / "file", config, params)
    assert broadcasts == [True, False]


def test_tokenizer_larger_than_the_vocabulary(tmp_path, tiny):
    config, params = tiny
    tokenizer = small_tokenizer(["<unk>", "<pad>", "<end>", *map(str, range(60))])
    with pytest.raises(ValueError, match="tokenizer has 63.*vocab_size is 40"):
        save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
