"""Malformed files and folders of data: tables, built sets, the cache of tokens."""

import gzip
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.catalogue import builder
from targetsft_jax.data.config import DataConfig, FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer

ROWS = [{"question": f"What is {i}+1?", "answer": f"#### {i + 1}"} for i in range(300)]
FIELDS = FieldMap(prompt="question", response="answer")
CUTS = 20


def _cuts(whole, rng):
    """The same bytes without their end: always a file that is not whole."""
    for end in {0, 1, len(whole) - 1, *rng.integers(0, len(whole), CUTS).tolist()}:
        yield whole[:end]


def _changes(whole, rng):
    """The same bytes with one or with sixteen of them changed."""
    for number in (1, 16):
        for _ in range(CUTS):
            changed = bytearray(whole)
            for place in rng.integers(0, len(whole), number):
                changed[place] ^= int(rng.integers(1, 256))
            yield bytes(changed)


def _prepare(config):
    return prepare(config, byte_tokenizer()).train


def _texts(dataset):
    return dataset.take(np.arange(dataset.rows))["tokens"].tobytes()


def _refused(config, named, count, kind):
    with pytest.raises(ValueError) as refused:
        _prepare(config)
    said = str(refused.value)
    assert named in said and len(said) > len(named) + 15, said
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
def test_a_file_that_is_cut_or_changed(source, name, write, tmp_path, count, confined):
    """A cut one is refused. A changed one is too, unless it still says the same."""
    path = tmp_path / name
    write(path)
    config = DataConfig(source=source, path=str(path), fields=FIELDS, max_length=256)
    wanted = _texts(_prepare(config))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    confined(tmp_path)
    for content in _cuts(whole, rng):
        path.write_bytes(content)
        _refused(config, str(path), count, source)
    for content in _changes(whole, rng):
        path.write_bytes(content)
        try:
            found = _texts(_prepare(config))
        except ValueError as error:
            assert str(path) in str(error)
            count(source, "refused by file")
            continue
        assert found == wanted
        count(source, "of no consequence, read the same")


def test_a_saved_folder_that_is_not_whole(tmp_path, count, confined):
    """What `save_to_disk` writes: its descriptions cut, lying, or leading outside."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for path in (folder / "data.arrow", tmp_path / "outside.arrow"):
        with pyarrow.ipc.new_stream(str(path), _table().schema) as stream:
            stream.write_table(_table())
    state = folder / "state.json"
    config = DataConfig(source="hf_dataset", path=str(folder), fields=FIELDS)

    def said(files):
        return json.dumps({"_data_files": files, "_split": "train"}).encode()

    whole = said([{"filename": "data.arrow"}])
    state.write_bytes(whole)
    assert _prepare(config).report.examples == len(ROWS)
    rng = np.random.default_rng(0)
    outside = ("../outside.arrow", str(tmp_path / "outside.arrow"), "a/../../x.arrow")
    wrong = [
        *(whole[:end] for end in rng.integers(0, len(whole) - 1, CUTS)),
        *(text.encode() for text in ("[]", "3", "null", "{}", '"x"')),
        *(said([{"filename": name}]) for name in (*outside, "gone.arrow", "", 3, None)),
        *(said(files) for files in ([], None, "data.arrow", [3], [{}], {}, [None])),
    ]
    confined(folder)
    for content in wrong:
        state.write_bytes(content)
        _refused(config, str(folder), count, "hf_dataset")
    state.write_bytes(whole)
    data = (folder / "data.arrow").read_bytes()
    for content in (data[:end] for end in rng.integers(0, len(data) // 2, CUTS)):
        (folder / "data.arrow").write_bytes(content)
        _refused(config, str(folder), count, "hf_dataset")


def test_a_built_set_whose_files_are_cut_changed_or_gone(tmp_path, count, confined):
    published = tmp_path / "published"
    published.mkdir()
    lines = "\n".join(map(json.dumps, ROWS))
    (published / "train.jsonl").write_text(lines)
    built = builder.build("gsm8k", str(tmp_path / "sets"), str(published))
    config = DataConfig(
        source="tfds", dataset="gsm8k", data_dir=str(tmp_path / "sets"), max_length=256
    )
    wanted = _texts(_prepare(config))
    kept = tmp_path / "kept"
    shutil.copytree(built.folder, kept)
    rng = np.random.default_rng(0)
    confined(tmp_path)
    for path in sorted(kept.iterdir()):
        whole, own = path.read_bytes(), built.folder / path.name
        broken = [*_cuts(whole, rng), *_changes(whole, rng), b"[]", b"null", b"{}"]
        for content in broken:
            own.write_bytes(content)
            try:
                found = _texts(_prepare(config))
            except ValueError as error:
                said = str(error)
                assert "damaged" in said or "build it again" in said or "row" in said
                assert str(built.folder) in said or "gsm8k/train:" in said, said
                count("built sets", "refused by file")
                continue
            # A description in other words, or a cut file that nobody reads.
            assert found == wanted, path.name
            count("built sets", "of no consequence, read the same")
        own.write_bytes(whole)


def test_a_cache_that_is_cut_changed_or_gone_is_made_again(tmp_path, count, confined):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    config = DataConfig(source="jsonl", path=str(path), fields=FIELDS, max_length=256)
    tokenizer, cache = byte_tokenizer(), tmp_path / "cache"
    first = prepare(config, tokenizer, cache).train
    wanted = first.fingerprint, _texts(first)
    files = sorted(p for p in cache.rglob("*") if p.is_file())
    assert len(files) > 6
    rng = np.random.default_rng(0)
    confined(tmp_path)
    for file in files:
        whole = file.read_bytes()
        place = int(rng.integers(len(whole)))
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for content in (b"", whole[: len(whole) // 2], whole + b"x", flipped, None):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            again = prepare(config, tokenizer, cache).train
            assert (again.fingerprint, _texts(again)) == wanted
            assert any("damaged, made again" in line for line in again.cached)
            assert file.read_bytes() == whole
            count("token caches", "named and made again")
