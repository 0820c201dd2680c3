"""Files of every kind are streamed, each row with its file and number."""

import gzip
import os
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from support.tables import ROWS, write_arrow, write_parquet

from targetsft_jax.data import sources
from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.sources import (
    read_arrow,
    read_files,
    read_lines,
    read_parquet,
)


@pytest.mark.parametrize(
    "write, read, name",
    [
        (write_parquet, read_parquet, "a.parquet"),
        (write_arrow, read_arrow, "a.arrow"),
    ],
)
def test_tables_give_nested_rows_and_their_numbers(tmp_path, write, read, name):
    path = write(tmp_path / name)
    rows_read = list(read([path, path]))
    assert [row for _, row in rows_read] == ROWS + ROWS
    assert [origin for origin, _ in rows_read[-2:]] == [f"{path}:2499", f"{path}:2500"]
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=rf"{name}: not a complete .* file .*download it"
    ):
        list(read(path))
    with pytest.raises(ValueError, match="no such file; check data.path"):
        list(read(str(tmp_path / "none")))


def test_a_table_is_streamed(tmp_path):
    """Row groups are read one by one and released."""
    rng = random.Random(0)
    rows = [{"text": rng.randbytes(500).hex(), "n": i} for i in range(20_000)]
    path = write_parquet(tmp_path / "big.parquet", rows, row_group_size=1000)
    size = Path(path).stat().st_size
    assert size > 10e6
    before = pyarrow.total_allocated_bytes()
    allocated = [pyarrow.total_allocated_bytes() - before for _ in read_parquet(path)]
    assert 0 < max(allocated) < size / 3


def test_json_files_are_lists_or_objects_by_id(tmp_path):
    path = tmp_path / "a.json"
    for text, rows in (
        ('[{"a": 1}, {"a": 2}]', [b'{"a": 1}', b'{"a": 2}']),
        ("\ufeff \n[\n]\n", []),
        ('{"x": {"a": 1}, "y": {"a": 2}}', [{"id": "x", "a": 1}, {"id": "y", "a": 2}]),
        ('{"a": 1}\n{"a": 2}\n', [b'{"a": 1}\n', b'{"a": 2}\n']),
        ('{"a": 1}', [{"a": 1}]),
    ):
        path.write_text(text)
        rows_read = list(read_files([str(path)]))
        assert [row for _, row in rows_read] == rows
        numbers = range(1, len(rows) + 1)
        assert [origin for origin, _ in rows_read] == [f"{path}:{i}" for i in numbers]
    path.write_text('[{"a": 1}, {"a"')
    with pytest.raises(ValueError, match="a.json: not JSON"):
        list(read_files([str(path)]))


def test_lines_stream_from_both_kinds_of_file(tmp_path):
    plain, packed = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl.gz")
    with open(plain, "wb") as file:
        file.write("\ufeff".encode() + b'{"a": 1}\n\n{"a": "\xc3\xa9"}')
    with gzip.open(packed, "wb") as file:
        file.write(b'{"a": 3}\n')
    rows = [(o, parse_row(line, o)) for o, line in read_lines([plain, packed])]
    assert rows == [
        (f"{plain}:1", {"a": 1}),
        (f"{plain}:3", {"a": "é"}),
        (f"{packed}:1", {"a": 3}),
    ]


def test_a_line_without_an_end_is_cut(tmp_path, monkeypatch):
    """The rest of it is skipped in pieces, and later lines keep their numbers."""
    monkeypatch.setattr(sources, "MAX_LINE", 100)
    monkeypatch.setattr(sources, "_CHUNK", 64)
    path = tmp_path / "a.jsonl"
    exact = b"x" * 100
    path.write_bytes(b"\n".join([b"x" * 1000, exact, b"x" * 101, b"{}", b"x" * 500]))
    lines = [(origin[-2:], line) for origin, line in read_lines(str(path))]
    cut = b"x" * 101
    assert lines == [
        (":1", cut),
        (":2", exact + b"\n"),
        (":3", cut),
        (":4", b"{}\n"),
        (":5", cut),
    ]


@pytest.mark.parametrize(
    "name, content, problem",
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "the file is gzip; .* ends in .gz"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd..", "the file is Zstandard"),
        ("a.json", b"PK\x03\x04..", "the file is a zip archive"),
        ("a.jsonl", b"PAR1..", "the file is Parquet; expected a name"),
        ("a.jsonl.gz", b"{}", "the gzip stream is damaged after line 0"),
        ("a.json", b"[" * 100_000, "not JSON: nested too deeply"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {problem}"):
        list(read_files([str(tmp_path / name)]))


def test_anything_but_a_file_is_refused_without_being_opened(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, problem in (
        ("folder.jsonl", "a folder; expected a file"),
        ("pipe.jsonl", "a pipe or a device; expected a regular file"),
        ("none.jsonl", "no such file; check data.path"),
    ):
        with pytest.raises(ValueError, match=problem):
            list(read_lines(str(tmp_path / name)))
    with pytest.raises(ValueError, match="a pipe or a device"):
        list(read_lines("/dev/zero"))


def test_a_document_beyond_the_limit_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_MAX_DOCUMENT", 2**21)
    path = tmp_path / "a.json"
    path.write_bytes(b"{" + b" " * 2**23)
    with pytest.raises(ValueError, match="a.json: a JSON document of more than"):
        list(read_files([str(path)]))


def test_damaged_compression_ends_the_stream_with_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rng = random.Random(0)
    rows = b"\n".join(b'{"a": %d}' % rng.getrandbits(64) for _ in range(5000))
    path.write_bytes(gzip.compress(rows)[:-1000])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: the gzip stream is damaged"):
        list(read_lines(str(path)))
    with pytest.raises(ValueError, match="no such file"):
        list(read_lines(str(tmp_path / "none.jsonl")))
