"""Every row and every example is counted once."""

import dataclasses
import json

import numpy as np
import pytest

from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import (
    prepare,
)
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


def test_the_report_adds_up(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"q": f"{n}", "a": "x" * n} for n in (1, 5, 100, 3)]
    rows += [{"q": "b" * 100, "a": "c"}, {"q": "b"}, {"q": "<|end|>", "a": "d"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(prompt="q", response="a"),
        max_length=32,
        on_bad_row="skip",
        max_dropped=1.0,
    )
    report = prepare(config, TOKENIZER).train.report
    assert (report.rows, report.bad, report.truncated, report.examples) == (7, 2, 1, 4)
    assert sum(report.dropped.values()) == 1
    assert report.rows == report.bad + report.examples + sum(report.dropped.values())
    # user q assistant a… end: 5, 9, 7 tokens and one row of 32.
    assert report.tokens == 5 + 9 + 7 + 32
    assert report.trained_tokens == 2 + 6 + 4 + (32 - 5)
    assert report.fill == report.tokens / (report.packed_rows * 32)
    assert "6: field 'a' is missing" in str(report)
    with pytest.raises(ValueError, match="turn 0 contains"):
        prepare(
            dataclasses.replace(config, on_bad_row="error", where={"q": "<|end|>"}),
            TOKENIZER,
        )
    with pytest.raises(ValueError, match=r"no example left(.|\n)*filtered"):
        prepare(dataclasses.replace(config, where={"q": "nobody"}), TOKENIZER)


def test_bad_and_dropped_rows_are_counted_for_their_source(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"q": "1", "a": "2"}, {"q": "1"}, {"q": "<|end|>", "a": "2"}]
    rows.append({"q": "b" * 100, "a": "c"})
    path.write_text("\n".join(map(json.dumps, rows)))
    file = SourceConfig(
        source="jsonl", path=str(path), fields=FieldMap(prompt="q", response="a")
    )
    config = DataConfig(
        mixture=[SourceConfig(synthetic=SyntheticConfig(examples=5)), file],
        max_length=64,
        on_bad_row="skip",
    )
    report = prepare(config, byte_tokenizer()).train.report
    cells = {line.split()[0]: line.split() for line in report.lines()}["a.jsonl"]
    assert cells[1:6] == [
        "4",
        "0",
        "2",
        "1",
        "1",
    ]  # rows, filtered, bad, left out, used
    assert (report.rows, report.bad, report.examples) == (9, 2, 6)


def test_only_counts_that_happened_are_printed():
    report = DataReport(rows=3, examples=3)
    assert report.lines() == ["rows read            3", "examples             3"]
    for n in range(12):
        report.skip(ValueError(f"f:{n}: bad"))
    report.drop("reason", 0)
    lines = report.lines()
    assert lines[1] == "bad rows skipped     12" and lines[-2] == "  … and 2 more"
    assert not any("dropped" in line for line in lines)


def test_examples_left_out_are_counted_by_source():
    report = DataReport()
    source, lengths = np.array([0, 2, 0]), np.array([3, 5, 4])
    for name in ("a", "c"):
        report.count_source("encoded", name, 3)
    report.count_examples(("a", "b", "c"), source, lengths)
    assert {n: (c["examples"], c["tokens"]) for n, c in report.by_source.items()} == {
        "a": (2, 7),
        "b": (0, 0),
        "c": (1, 5),
    }
    table = {line.split()[0]: line.split() for line in report.lines()}
    assert table["a"][4] == "1" and table["c"][4] == "2"  # Left out.
