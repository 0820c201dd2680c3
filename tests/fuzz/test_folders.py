"""Malformed model folders: index, config, tensors, tokenizer; none leads outside."""

import json
import shutil
import warnings

import numpy as np
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.data.tokenizer import byte_tokenizer, load_tokenizer
from targetsft_jax.hf.importer import load_config, load_params

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"
TRUNCATIONS = 40


@pytest.fixture
def model(tmp_path):
    """A whole folder of two shards; beside it one that an index must not reach."""
    content = checkpoints.tensors()
    folder = checkpoints.write(tmp_path / "model", content, shards=2)
    shutil.copy(folder / FIRST, tmp_path / "outside.safetensors")
    return folder


def _load(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_params(folder, load_config(folder))


def _refused(folder, count, kind, action=_load):
    """A sentence that names the folder; not an error of some library's own."""
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        action(folder)
    said = str(refused.value)
    assert str(folder) in said and len(said) > len(str(folder)) + 15, said
    assert type(refused.value) in (ValueError, FileNotFoundError), said
    count(kind, "refused by file")


def test_the_whole_folder_is_read(model, confined):
    """The control: undamaged, and within its folder."""
    confined(model)
    assert _load(model)["embed"].shape == (40, 16)


OUTSIDE = (
    "../outside.safetensors",
    "/etc/outside.safetensors",
    "a/../../outside.safetensors",
    "..\\outside.safetensors",
    "./../outside.safetensors",
    "~/outside.safetensors",
    "missing.safetensors",
    "model.bin",
    "pytorch_model.pt",
    "",
    ".",
    "..",
    "\x00.safetensors",
    "x" * 300 + ".safetensors",
    None,
    3,
    [],
    {},
    [FIRST],
)


@pytest.mark.parametrize("entries", ["one", "all"])
def test_an_index_that_names_anything_but_a_file_beside_it(
    model, entries, count, confined
):
    index = json.loads((model / INDEX).read_text())
    keys = list(index["weight_map"])
    confined(model)
    for name in OUTSIDE:
        changed = dict.fromkeys(keys if entries == "all" else keys[:1], name)
        text = json.dumps({"weight_map": index["weight_map"] | changed})
        (model / INDEX).write_text(text)
        _refused(model, count, "index files")


def test_an_index_that_is_none(model, count, confined):
    whole = (model / INDEX).read_bytes()
    rng = np.random.default_rng(0)
    wrong = ["", "[]", "{}", "null", "3", '"x"', '{"weight_map": []}', "{" * 9000]
    wrong += ['{"weight_map": {}}', '{"weight_map": null}', '{"weight_map": "x"}']
    wrong = [text.encode() for text in wrong] + [b"\xff\xfe\x00"]
    wrong += [whole[:end] for end in rng.integers(1, len(whole) - 1, TRUNCATIONS)]
    confined(model)
    for content in wrong:
        (model / INDEX).write_bytes(content)
        _refused(model, count, "index files")


def test_a_config_that_is_none_or_wrong(model, count, confined):
    path = model / "config.json"
    whole = path.read_text()
    config = json.loads(whole)
    confined(model)
    for end in range(0, len(whole) - 1, 3):
        path.write_text(whole[:end])
        _refused(model, count, "model configs")
    needed = [key for key in checkpoints.SIZES if key != "head_dim"]
    for key in (*needed, "model_type"):
        for value in (None, "x", [], {}, -1, 0, 2.5, "16", True, 1e300):
            path.write_text(json.dumps(config | {key: value}))
            _refused(model, count, "model configs")
    for key in needed:
        rest = {name: value for name, value in config.items() if name != key}
        path.write_text(json.dumps(rest))
        _refused(model, count, "model configs")


def test_tensors_that_are_cut_or_whose_header_lies(model, count, confined):
    path = model / FIRST
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    rng = np.random.default_rng(0)
    confined(model)
    ends = [*range(0, 12), *rng.integers(12, len(whole) - 1, TRUNCATIONS).tolist()]
    for end in ends:
        path.write_bytes(whole[:end])
        _refused(model, count, "tensor files")
    for stated in (0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1):
        path.write_bytes(stated.to_bytes(8, "little") + whole[8:])
        _refused(model, count, "tensor files")
    for key in [name for name in header if name != "__metadata__"][:5]:
        entry = header[key]
        begin, end = entry["data_offsets"]
        lies = [
            {"dtype": "X9"},
            {"dtype": None},
            {"shape": [-1, 2]},
            {"shape": "16"},
            {"shape": [s + 1 for s in entry["shape"]]},
            {"shape": entry["shape"][::-1] + [1]},
            {"data_offsets": [begin, end + 2]},
            {"data_offsets": [begin + 2, end]},
            {"data_offsets": [end, begin]},
            {"data_offsets": [0, 2**40]},
            {"data_offsets": [-8, end]},
        ]
        for lie in lies:
            _write(path, header | {key: entry | lie}, data)
            _refused(model, count, "tensor files")
        _write(path, {k: v for k, v in header.items() if k != key}, data)
        _refused(model, count, "tensor files")
        _write(path, {k + "_" if k == key else k: v for k, v in header.items()}, data)
        _refused(model, count, "tensor files")


def _write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_tokenizer_that_is_none(tmp_path, count, confined):
    folder = tmp_path / "tokenizer"
    byte_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    whole = path.read_bytes()
    load_tokenizer(folder)  # the control, and what is imported on the way
    confined(folder)
    rng = np.random.default_rng(0)
    wrong = [whole[:end] for end in rng.integers(0, len(whole) - 2, TRUNCATIONS)]
    wrong += [b"{}", b"[]", b"null", b"3", b'{"model": {}}', b"\xff\xfe"]
    wrong += [whole.replace(b'"BPE"', b'"XYZ"'), whole.replace(b'"vocab"', b'"vocap"')]
    for content in wrong:
        path.write_bytes(content)
        _refused(folder, count, "tokenizers", load_tokenizer)
    path.unlink()
    _refused(folder, count, "tokenizers", load_tokenizer)
