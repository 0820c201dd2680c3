"""Exports: bit for bit, whole or absent, and never over something that is not ours."""

import json

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.hf import exporter
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params


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
    # Through float32 masters: widening and narrowing again must lose nothing.
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
        return np.zeros(spec["shape"], spec["dtype"])

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "_to_host", fail)
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(target, config, params)
    assert (target / "model.safetensors").read_bytes() == before
    bigger = jax.tree.map(lambda leaf: leaf + 1, params)
    save_pretrained(target, config, bigger)  # what was left behind is no obstacle
    assert (target / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "theirs"]


def test_other_folders_are_not_replaced(tmp_path, tiny):
    config, params = tiny
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").touch()
    for name in ("notes", "run", "file"):
        with pytest.raises(FileExistsError, match=name):
            save_pretrained(tmp_path / name, config, params)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", config, params)
    assert load_config(tmp_path / "empty") == config


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


def test_tokenizer_travels_along(tmp_path, tiny):
    # Not AutoTokenizer: for these model types it rebuilds the family's own tokenizer
    # around the saved vocabulary, whatever kind was saved.
    from transformers import PreTrainedTokenizerFast

    config, params = tiny
    tokenizer = small_tokenizer(["<unk>", "<pad>", "<end>", "yes", "no"])
    save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (document["eos_token_id"], document["pad_token_id"]) == (2, 1)
    back = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert back("yes no").input_ids == [3, 4]
    assert back.chat_template == tokenizer.chat_template


def test_tokenizer_larger_than_the_vocabulary(tmp_path, tiny):
    config, params = tiny
    tokenizer = small_tokenizer(["<unk>", "<pad>", "<end>", *map(str, range(60))])
    with pytest.raises(ValueError, match="tokenizer has 63.*vocab_size is 40"):
        save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)
