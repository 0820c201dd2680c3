"""Hostile rows in every source: refused by file and row, or skipped and counted.

Rows that are valid for their format but not for a run: numbers that float32 or Python
lacks, text that is no Unicode, nesting and digits without end, cells of any type.
"""

import dataclasses
import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.config import DataConfig, SourceConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.records import load_records, problems
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.sources import read_files
from targetsft_jax.data.tokenizer import byte_tokenizer

FIELDS = FieldMap(prompt="q", response="a", answer="gold")
GOOD = {"q": "1+1?", "a": "2", "gold": "2", "trajectory_weight": 0.5}
WEIGHTS = ("NaN", "-Infinity", "1e300", "1e39", "-1", "1e-300", "1e-40", "1" * 400)
WEIGHTS += ('"1"', "{}", "[0.5]", "-1e-9")
TEXTS = ("NaN", "Infinity", "-Infinity", "1e999", r'"\ud800"', r'["x", "\udfff"]')
TEXTS += ("[NaN]", "{}", "null", "[null]", '[{"x": 1}]', '" "')


def _with(name, value):
    """The good row as JSON, with the text of one value replaced."""
    values = {key: json.dumps(text) for key, text in GOOD.items()} | {name: value}
    return "{" + ", ".join(f'"{k}": {v}' for k, v in values.items()) + "}"


def _bad_lines():
    for name in ("q", "a", "gold"):
        yield from (_with(name, value) for value in TEXTS)
    yield from (_with("trajectory_weight", value) for value in WEIGHTS)
    for name in ("q", "unused"):
        yield _with(name, "1" * 5000)
        yield _with(name, "-" + "9" * 100_000)
        for depth in (101, 900, 100_000):
            yield _with(name, "[" * depth + '"x"' + "]" * depth)
            yield _with(name, '{"x":' * depth + "1" + "}" * depth)
        yield _with(name, '{"x": 1, "x": 2}')
    good = json.dumps(GOOD)
    yield good[:-1] + ', "q": "another"}'
    yield good.replace("1+1?", "\0")
    yield good.replace("1+1?", "\t")
    yield r'{"\ud800": 1}'
    lacks_weight = {k: v for k, v in GOOD.items() if k != "trajectory_weight"}
    yield json.dumps(lacks_weight)


BAD = [line.encode() for line in _bad_lines()]
BAD += [b"\xff\xfe{}", b'{"q": "\xed\xa0\x80"}', b"\x1f\x8b\x08", b"\x00" * 100]
SOURCES = ("jsonl", "jsonl.gz", "hf_dataset", "mixture")


def _write(source, folder, lines):
    """Data section of a source with these lines, and its file."""
    content = b"\n".join(lines) + b"\n"
    if source == "hf_dataset":
        path = folder / "data" / "train-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        suffix = ".jsonl.gz" if source == "jsonl.gz" else ".jsonl"
        path = folder / ("rows" + suffix)
        content = gzip.compress(content, 1) if suffix.endswith(".gz") else content
    path.write_bytes(content)
    if source == "hf_dataset":
        settings = {"source": source, "path": str(folder), "fields": FIELDS}
    else:
        settings = {"source": "jsonl", "path": str(path), "fields": FIELDS}
    if source == "mixture":
        return {"mixture": [SourceConfig(**settings, name="a")]}, path
    return settings, path


def _assert_all_counted(report):
    dropped = sum(report.dropped.values())
    accounted = report.filtered + report.bad + dropped + report.held_out
    assert report.rows == accounted + report.examples, report


@pytest.mark.parametrize("source", SOURCES)
def test_lines_are_skipped_and_counted(source, tmp_path, count, confined):
    lines = [line for bad in BAD for line in (json.dumps(GOOD).encode(), bad)]
    settings, _ = _write(source, tmp_path, lines)
    tokenizer = byte_tokenizer()
    confined(tmp_path)
    config = DataConfig(**settings, max_length=64, on_bad_row="skip")
    report = prepare(config, tokenizer, held_out=3).train.report
    assert (report.rows, report.bad) == (2 * len(BAD), len(BAD)), str(report)
    assert report.examples == len(BAD) - 3
    _assert_all_counted(report)
    # Safe to print, on a line each.
    assert all(row.isprintable() and len(row) < 1000 for row in report.bad_rows)
    for _ in BAD:
        count(f"hostile rows ({source})", "skipped and counted")


@pytest.mark.parametrize("source", SOURCES)
def test_lines_are_refused_by_file_and_row(source, tmp_path, count, confined):
    tokenizer = byte_tokenizer()
    confined(tmp_path)
    for line in BAD:
        lines = [json.dumps(GOOD).encode(), line]
        settings, path = _write(source, tmp_path, lines)
        with pytest.raises(RowError) as refused:
            prepare(DataConfig(**settings, max_length=64), tokenizer)
        message = str(refused.value)
        assert message.startswith(f"{path}:2: "), message
        assert message.isprintable() and 15 < len(message) - len(str(path)) < 1000
        count(f"hostile rows ({source})", "refused by file and row")


def test_rows_of_an_evaluation(tmp_path, count):
    """Gold answers, read without a tokenizer and used after sampling."""
    bad = [_with("gold", value).encode() for value in TEXTS]
    settings, path = _write("jsonl", tmp_path, [*bad, json.dumps(GOOD).encode()])
    report = DataReport()
    config = DataConfig(**settings, on_bad_row="skip", max_dropped=1.0)
    assert [p.answer for p in problems(config, report=report)] == ["2"]
    assert report.bad == len(bad)
    _assert_all_counted(report)
    with pytest.raises(RowError, match="rows.jsonl:1: field 'gold' is nan"):
        problems(DataConfig(**settings))
    for _ in bad:
        count("hostile rows (evaluation)", "skipped and counted")


def _cells():
    """Name -> an array of two cells of which the second is unusable as text."""
    text = pyarrow.array(["ok", "ok"])
    not_utf8 = [None, b"\0\0\0\0\2\0\0\0\4\0\0\0", b"ok\xff\xfe"]
    buffers = [x if x is None else pyarrow.py_buffer(x) for x in not_utf8]
    yield "bytes", pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)
    yield "null", pyarrow.array(["ok", None])
    yield "float", pyarrow.array([1.0, float("nan")])
    yield "list", pyarrow.array([["ok"], ["ok", None]])
    for unit in ("timestamp", "duration"):
        kind = getattr(pyarrow, unit)("ns")
        yield f"{unit}[ns]", pyarrow.array([1, 2], kind)
    yield "time64[ns]", pyarrow.array([1, 2], pyarrow.time64("ns"))
    far = pyarrow.array([0, 9_400_000_000_000], pyarrow.timestamp("s"))
    yield "year 300,000", far.cast(pyarrow.timestamp("ms"))
    yield "date32", pyarrow.array([0, 2**31 - 1], pyarrow.date32())
    twice = pyarrow.StructArray.from_arrays([text, text], ["x", "x"])
    yield "struct with a name twice", twice
    yield "map", pyarrow.array([[("x", "y")]] * 2, pyarrow.map_(text.type, text.type))
    yield "binary", pyarrow.array([b"ok", b"ok"])


def _write_table(source, folder, columns):
    table = pyarrow.table(columns)
    if source == "parquet":
        path = folder / "rows.parquet"
        pyarrow.parquet.write_table(table, path)
        return DataConfig(source="parquet", path=str(path), fields=FIELDS), path
    path = folder / "data.arrow"
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": path.name}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    return DataConfig(source="hf_dataset", path=str(folder), fields=FIELDS), path


def _all(config):
    records, report = load_records(config)
    return list(records), report


@pytest.mark.parametrize("source", ["parquet", "hf_dataset"])
@pytest.mark.parametrize("name, cells", [pytest.param(*x, id=x[0]) for x in _cells()])
def test_cells_of_tables(name, cells, source, tmp_path, count, confined):
    """Of no consequence in a column that is not used, else counted by row."""
    good = {key: [str(text)] * 2 for key, text in GOOD.items() if key != "gold"}
    good["trajectory_weight"] = [0.5, 0.5]
    unused = {"gold": ["x", "y"], "when": cells, "nested": [{"x": 1}] * 2}
    unused["nested"] = pyarrow.StructArray.from_arrays([cells], ["x"])
    confined(tmp_path)
    config, _ = _write_table(source, tmp_path, good | unused)
    records, report = _all(config)
    assert len(records) == report.rows == 2 and not report.bad
    count(f"hostile cells ({source})", "of no consequence, not read")

    config, path = _write_table(source, tmp_path, good | {"gold": cells})
    records, report = _all(dataclasses.replace(config, on_bad_row="skip"))
    assert report.rows == 2 and report.bad >= 1
    assert len(records) + report.bad == 2
    assert report.bad_rows[-1].startswith(f"{path}:2: field 'gold' ")
    count(f"hostile cells ({source})", "skipped and counted")
    with pytest.raises(RowError, match=r":[12]: field 'gold' "):
        _all(config)
    count(f"hostile cells ({source})", "refused by file and row")


def test_arrow_files_with_changed_bytes(tmp_path, count, confined):
    """Refused by file, or rows of other text; offsets must not crash the process."""
    turns = [[{"role": "user", "content": f"é{i}"}] for i in range(40)]
    table = {"q": [f"{i}+1?" for i in range(40)], "a": [str(i) for i in range(40)]}
    config, path = _write_table("hf_dataset", tmp_path, table | {"gold": turns})
    content, rng = path.read_bytes(), np.random.default_rng(0)
    config = dataclasses.replace(config, on_bad_row="skip")
    confined(tmp_path)
    for _ in range(150):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 1):
            changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            records, report = _all(config)
        except ValueError as error:
            assert str(path) in str(error), error
            count("hostile Arrow files", "refused by file")
            continue
        assert report.rows == len(records) + report.bad
        count("hostile Arrow files", "every row counted")


@pytest.mark.parametrize("unit", [b"0", b"\n", b'{"q":"x","a":"y"}\n'])
def test_a_gzip_file_that_expands_without_end(unit, tmp_path, monkeypatch, count):
    monkeypatch.setattr("targetsft_jax.data.sources._RATIO_FROM", 2**20)
    for name in ("rows.jsonl.gz", "rows.json.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(unit * (2**23 // len(unit)), 9))
        with pytest.raises(ValueError, match=rf"{name}: [\d,]+ bytes expand to more"):
            for _ in read_files([str(path)]):
                pass
        count("gzip files that expand without end", "refused by file")
