"""Files, folders and patterns of a source: sorted, counted, and what is left out."""

import gzip
import json

import pytest
from support import tables
from support.tables import load_all

from targetsft_jax.data.config import DataConfig, SourceConfig
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.files import list_files
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer

ROWS = [{"question": f"{i}+1=?", "answer": str(i + 1)} for i in range(12)]


def _lines(rows):
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture
def folder(tmp_path):
    """Three rows in each of four formats, and files that are no data."""
    folder = tmp_path / "rows"
    (folder / "more").mkdir(parents=True)
    (folder / "b.jsonl").write_bytes(_lines(ROWS[3:6]))
    (folder / "a.json").write_text(json.dumps(ROWS[:3], indent=2))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(_lines(ROWS[6:9])))
    tables.write_parquet(folder / "d.parquet", ROWS[9:])
    for name in ("README.md", ".hidden.jsonl", "more/e.jsonl"):
        (folder / name).write_text("{}")
    return folder


def _questions(config):
    records, report = load_all(config)
    return [r.messages[0]["content"] for r in records], report


EVERY = [row["question"] for row in ROWS]


def test_the_files_of_a_folder_are_read_by_name_and_the_others_named(folder):
    questions, report = _questions(DataConfig(path=str(folder)))
    assert questions == EVERY
    files = "4: a.json … d.parquet (not read: README.md, more/)"
    assert report.files == {"rows": files}
    assert f"files                {files}" in report.lines()
    assert report.read_as == {"rows": "question/answer"}


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*.json*", EVERY[:9]),
        ("[bd].*", EVERY[3:6] + EVERY[9:]),
        (["d.parquet", "a.json"], EVERY[9:] + EVERY[:3]),
        (["d.*", "b.jsonl"], EVERY[9:] + EVERY[3:6]),
        ("a.json", EVERY[:3]),
        ("c.jsonl.gz", EVERY[6:9]),
    ],
)
def test_patterns_and_lists(folder, pattern, expected):
    names = [pattern] if isinstance(pattern, str) else pattern
    path = [str(folder / name) for name in names]
    config = DataConfig(path=path[0] if isinstance(pattern, str) else path)
    assert _questions(config)[0] == expected


def test_a_source_of_one_kind_takes_the_files_of_its_kind(folder):
    lines = DataConfig(source="jsonl", path=str(folder))
    questions, report = _questions(lines)
    assert questions == EVERY[:9]
    assert report.files["rows"].endswith("(not read: README.md, d.parquet, more/)")
    table = DataConfig(source="parquet", path=str(folder))
    assert _questions(table)[0] == EVERY[9:]


def test_a_name_of_another_kind_is_read_by_its_source(folder):
    for name, source in (("b.jsonl", "jsonl"), ("d.parquet", "parquet")):
        other = (folder / name).rename(folder / "rows.txt")
        config = DataConfig(source=source, path=str(other))
        assert len(_questions(config)[0]) == 3
        with pytest.raises(ValueError, match="rows.txt: expected a file whose name"):
            _questions(DataConfig(path=str(other)))


def test_a_folder_with_splits_is_read_by_split(tmp_path):
    (tmp_path / "README.md").write_text("x")
    for i, split in enumerate(("train", "test")):
        (tmp_path / f"{split}.jsonl").write_bytes(_lines(ROWS[6 * i :][:6]))
    config = DataConfig(path=str(tmp_path))
    questions, report = _questions(config)
    assert questions == EVERY[:6]
    assert "1 (not read: README.md, test.jsonl)" in str(report)
    assert _questions(DataConfig(path=str(tmp_path), split="test"))[0] == EVERY[6:]
    saved = tables.save_splits(tmp_path / "saved", {"train": [ROWS[:2]]})
    assert _questions(DataConfig(path=saved.path))[0] == EVERY[:2]


def test_what_is_missing_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "rows.csv").write_text("a,b")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "x-00000-of-00002.jsonl").write_bytes(_lines(ROWS))
    for path, problem in (
        (
            tmp_path / "empty",
            "empty has no file .* it has nothing: check",
        ),
        (tmp_path / "csv", "csv has no file whose name .* it has rows.csv: check data"),
        (tmp_path / "*.jsonl", r"\*.jsonl: no file matches the pattern; check data.p"),
        (tmp_path / "none.jsonl", "none.jsonl: no such file; check data.path"),
        (tmp_path / "*", "a folder; expected a file"),
        (tmp_path / "shards", "00001-of-00002.jsonl is missing"),
        (tmp_path / "shards" / "*", "00001-of-00002.jsonl is missing"),
    ):
        with pytest.raises(ValueError, match=problem):
            list_files(SourceConfig(path=str(path)))
    # A shard that is listed is read.
    assert list_files(
        SourceConfig(path=str(tmp_path / "shards/x-00000-of-00002.jsonl"))
    )
    with pytest.raises(ValueError, match="no split 'dev'"):
        list_files(SourceConfig(path=str(folder), split="dev"))


def test_every_file_is_part_of_the_fingerprint(folder, tmp_path):
    config = DataConfig(path=str(folder), max_length=32)
    before = content_hash(config), prepare(config, byte_tokenizer()).train.fingerprint
    again = content_hash(config), prepare(config, byte_tokenizer()).train.fingerprint
    assert before == again
    (folder / "e.jsonl").write_bytes(_lines([{"question": "9+9=?", "answer": "18"}]))
    after = content_hash(config), prepare(config, byte_tokenizer()).train.fingerprint
    assert before[0] != after[0] and before[1] != after[1]
