"""Malformed model folders: index, config, tensors, tokenizer; nothing else is read."""

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
    """An intact folder of two shards, and a file outside that must not be read."""
    content = checkpoints.tensors()
    folder = checkpoints.write(tmp_path / "model", content, shards=2)
    shutil.copy(folder / FIRST, tmp_path / "outside.safetensors")
    return folder


def _load(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_params(folder, load_config(folder))


def _refused(folder, count, kind, action=_load):
    """Expect an error of this package that names the folder."""
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        action(folder)
    message = str(refused.value)
    assert str(folder) in message and len(message) > len(str(folder)) + 15, message
    assert type(refused.value) in (ValueError, FileNotFoundError), message
    count(kind, "refused by file")


def test_the_intact_folder_is_read(model, confined):
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
def test_an_index_with_names_outside_its_folder(model, entries, count, confined):
    index = json.loads((model / INDEX).read_text())
    keys = list(index["weight_map"])
    confined(model)
    for name in OUTSIDE:
        changed = dict.fromkeys(keys if entries == "all" else keys[:1], name)
        text = json.dumps({"weight_map": index["weight_map"] | changed})
        (model / INDEX).write_text(text)
        _refused(model, count, "index files")


@pytest.mark.slow
def test_a_malformed_index(model, count, confined):
    intact = (model / INDEX).read_bytes()
    rng = np.random.default_rng(0)
    malformed = ["", "[]", "{}", "null", "3", '"x"', '{"weight_map": []}', "{" * 9000]
    malformed += ['{"weight_map": {}}', '{"weight_map": null}', '{"weight_map": "x"}']
    malformed = [text.encode() for text in malformed] + [b"\xff\xfe\x00"]
    malformed += [intact[:end] for end in rng.integers(1, len(intact) - 1, TRUNCATIONS)]
    confined(model)
    for content in malformed:
        (model / INDEX).write_bytes(content)
        _refused(model, count, "index files")


def test_a_malformed_config(model, count, confined):
    path = model / "config.json"
    intact = path.read_text()
    config = json.loads(intact)
    confined(model)
    for end in range(0, len(intact) - 1, 3):
        path.write_text(intact[:end])
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


@pytest.mark.slow
def test_truncated_tensors_and_false_headers(model, count, confined):
    path = model / FIRST
    intact = path.read_bytes()
    length = int.from_bytes(intact[:8], "little")
    header, data = json.loads(intact[8 : 8 + length]), intact[8 + length :]
    rng = np.random.default_rng(0)
    confined(model)
    ends = [*range(0, 12), *rng.integers(12, len(intact) - 1, TRUNCATIONS).tolist()]
    for end in ends:
        path.write_bytes(intact[:end])
        _refused(model, count, "tensor files")
    for stated in (0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1):
        path.write_bytes(stated.to_bytes(8, "little") + intact[8:])
        _refused(model, count, "tensor files")
    for key in [name for name in header if name != "__metadata__"][:5]:
        entry = header[key]
        begin, end = entry["data_offsets"]
        false_entries = [
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
        for false in false_entries:
            _write(path, header | {key: entry | false}, data)
            _refused(model, count, "tensor files")
        _write(path, {k: v for k, v in header.items() if k != key}, data)
        _refused(model, count, "tensor files")
        _write(path, {k + "_" if k == key else k: v for k, v in header.items()}, data)
        _refused(model, count, "tensor files")


def _write(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_malformed_tokenizer(tmp_path, count, confined):
    folder = tmp_path / "tokenizer"
    byte_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    intact = path.read_bytes()
    load_tokenizer(folder)  # The control; also imports lazy modules.
    confined(folder)
    rng = np.random.default_rng(0)
    malformed = [intact[:end] for end in rng.integers(0, len(intact) - 2, TRUNCATIONS)]
    malformed += [b"{}", b"[]", b"null", b"3", b'{"model": {}}', b"\xff\xfe"]
    malformed += [
        intact.replace(b'"BPE"', b'"XYZ"'),
        intact.replace(b'"vocab"', b'"vocap"'),
    ]
    for content in malformed:
        path.write_bytes(content)
        _refused(folder, count, "tokenizers", load_tokenizer)
    path.unlink()
    _refused(folder, count, "tokenizers", load_tokenizer)
