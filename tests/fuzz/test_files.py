"""Malformed files and folders of data: tables, built sets, the token cache."""

import gzip
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.catalogue import builder
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer

ROWS = [{"question": f"What is {i}+1?", "answer": f"#### {i + 1}"} for i in range(300)]
FIELDS = FieldMap(prompt="question", response="answer")
CUTS = 20


def _cuts(content, rng):
    """The bytes of a file without their end."""
    for end in {0, 1, len(content) - 1, *rng.integers(0, len(content), CUTS).tolist()}:
        yield content[:end]


def _changes(content, rng):
    """The bytes of a file with one or with sixteen of them changed."""
    for number in (1, 16):
        for _ in range(CUTS):
            changed = bytearray(content)
            for place in rng.integers(0, len(content), number):
                changed[place] ^= int(rng.integers(1, 256))
            yield bytes(changed)


def _prepare(config):
    return prepare(config, byte_tokenizer()).train


def _texts(dataset):
    return dataset.take(np.arange(dataset.rows))["tokens"].tobytes()


def _refused(config, named, count, kind):
    with pytest.raises(ValueError) as refused:
        _prepare(config)
    message = str(refused.value)
    assert named in message and len(message) > len(named) + 15, message
    assert type(refused.value).__module__.startswith(("builtins", "targetsft_jax"))
    count(kind, "refused by file")


def _table():
    return pyarrow.Table.from_pylist(ROWS)


def _write_parquet(path):
    pyarrow.parquet.write_table(_table(), path, write_page_checksum=True)


def _write_gzip(path):
    lines = "\n".join(map(json.dumps, ROWS))
    path.write_bytes(gzip.compress(lines.encode()))


@pytest.mark.parametrize(
    "source, name, write",
    [
        ("parquet", "rows.parquet", _write_parquet),
        ("jsonl", "rows.jsonl.gz", _write_gzip),
    ],
)
def test_a_truncated_or_changed_file(source, name, write, tmp_path, count, confined):
    """A truncated file is refused, and a changed one unless its rows are the same."""
    path = tmp_path / name
    write(path)
    config = DataConfig(source=source, path=str(path), fields=FIELDS, max_length=256)
    expected = _texts(_prepare(config))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    confined(tmp_path)
    for damaged in _cuts(content, rng):
        path.write_bytes(damaged)
        _refused(config, str(path), count, source)
    for damaged in _changes(content, rng):
        path.write_bytes(damaged)
        try:
            texts = _texts(_prepare(config))
        except ValueError as error:
            assert str(path) in str(error)
            count(source, "refused by file")
            continue
        assert texts == expected
        count(source, "of no consequence, read the same")


def test_an_incomplete_saved_folder(tmp_path, count, confined):
    """The files of `save_to_disk` with truncated, wrong or escaping descriptions."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for path in (folder / "data.arrow", tmp_path / "outside.arrow"):
        with pyarrow.ipc.new_stream(str(path), _table().schema) as stream:
            stream.write_table(_table())
    state = folder / "state.json"
    config = DataConfig(source="hf_dataset", path=str(folder), fields=FIELDS)

    def state_of(files):
        return json.dumps({"_data_files": files, "_split": "train"}).encode()

    content = state_of([{"filename": "data.arrow"}])
    state.write_bytes(content)
    assert _prepare(config).report.examples == len(ROWS)
    rng = np.random.default_rng(0)
    outside = ("../outside.arrow", str(tmp_path / "outside.arrow"), "a/../../x.arrow")
    wrong = [
        *(content[:end] for end in rng.integers(0, len(content) - 1, CUTS)),
        *(text.encode() for text in ("[]", "3", "null", "{}", '"x"')),
        *(
            state_of([{"filename": name}])
            for name in (*outside, "gone.arrow", "", 3, None)
        ),
        *(state_of(files) for files in ([], None, "data.arrow", [3], [{}], {}, [None])),
    ]
    confined(folder)
    for text in wrong:
        state.write_bytes(text)
        _refused(config, str(folder), count, "hf_dataset")
    state.write_bytes(content)
    data = (folder / "data.arrow").read_bytes()
    for damaged in (data[:end] for end in rng.integers(0, len(data) // 2, CUTS)):
        (folder / "data.arrow").write_bytes(damaged)
        _refused(config, str(folder), count, "hf_dataset")


@pytest.mark.slow
def test_a_built_set_with_truncated_changed_or_missing_files(tmp_path, count, confined):
    published = tmp_path / "published"
    published.mkdir()
    lines = "\n".join(map(json.dumps, ROWS))
    (published / "train.jsonl").write_text(lines)
    built = builder.build("gsm8k", str(tmp_path / "sets"), str(published))
    config = DataConfig(
        source="tfds", dataset="gsm8k", data_dir=str(tmp_path / "sets"), max_length=256
    )
    expected = _texts(_prepare(config))
    copy = tmp_path / "kept"
    shutil.copytree(built.folder, copy)
    rng = np.random.default_rng(0)
    confined(tmp_path)
    for path in sorted(copy.iterdir()):
        content, target = path.read_bytes(), built.folder / path.name
        variants = [
            *_cuts(content, rng),
            *_changes(content, rng),
            b"[]",
            b"null",
            b"{}",
        ]
        for damaged in variants:
            target.write_bytes(damaged)
            try:
                texts = _texts(_prepare(config))
            except ValueError as error:
                message = str(error)
                assert (
                    "damaged" in message
                    or "build it again" in message
                    or "row" in message
                )
                assert str(built.folder) in message or "gsm8k/train:" in message, (
                    message
                )
                count("built sets", "refused by file")
                continue
            # Another description, or a truncated file that is not read.
            assert texts == expected, path.name
            count("built sets", "of no consequence, read the same")
        target.write_bytes(content)


def test_a_truncated_changed_or_missing_cache_is_rebuilt(tmp_path, count, confined):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    config = DataConfig(source="jsonl", path=str(path), fields=FIELDS, max_length=256)
    tokenizer, cache = byte_tokenizer(), tmp_path / "cache"
    first = prepare(config, tokenizer, cache).train
    expected = first.fingerprint, _texts(first)
    files = sorted(p for p in cache.rglob("*") if p.is_file())
    assert len(files) > 6
    rng = np.random.default_rng(0)
    confined(tmp_path)
    for file in files:
        content = file.read_bytes()
        place = int(rng.integers(len(content)))
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for damaged in (
            b"",
            content[: len(content) // 2],
            content + b"x",
            flipped,
            None,
        ):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            again = prepare(config, tokenizer, cache).train
            assert (again.fingerprint, _texts(again)) == expected
            assert any("damaged, rebuilt" in line for line in again.cache_log)
            assert file.read_bytes() == content
            count("token caches", "reported and rebuilt")
