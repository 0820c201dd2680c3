"""Rows that are not used in full: a warning above 5 %, an error above half."""

import dataclasses
import gzip
import json

import pytest

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.records import problems
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.tokenizer import byte_tokenizer


def _config(folder, lengths, **keys):
    """Rows of so many tokens: 2 of turns, a character of question, and the answer."""
    rows = [{"question": "?", "answer": "x" * (n - 4)} for n in lengths]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(path=str(path), max_length=64, **keys)


def _prepared(config):
    return prepare(config, byte_tokenizer()).train


def _warning(config):
    report = _prepared(config).report
    lines = [line for line in report.lines() if line.startswith("WARNING")]
    assert lines == (
        [f"WARNING              {report.warning}"] if report.warning else []
    )
    return report.warning


def test_the_documented_shares(tmp_path):
    """200 rows; of the long ones the start is trained."""
    for long, warns in ((0, False), (10, False), (11, True), (100, True)):
        config = _config(tmp_path, [64] * (200 - long) + [65] * long)
        assert bool(_warning(config)) == warns, long
    assert _warning(config) == (
        "100 of 200 rows (50.0%) are not used in full: 100 truncated. Raise"
        " data.max_length from 64 (65 for 95% of the examples)"
    )
    config = _config(tmp_path, [64] * 99 + [100] * 100 + [5000])
    problem = "101 of 200 rows .50.5%. .* 101 truncated; expected at most 50%. Raise"
    with pytest.raises(ValueError, match=f"{problem} data.max_length from 64 .100 for"):
        _prepared(config)
    assert _warning(dataclasses.replace(config, max_dropped=1.0))
    strict = _config(tmp_path, [64] * 180 + [65] * 20, max_dropped=0.05)
    with pytest.raises(ValueError, match="20 of 200 rows .* expected at most 5%"):
        _prepared(strict)


def test_dropped_and_bad_rows_count_and_filtered_ones_do_not(tmp_path):
    config = _config(tmp_path, [64] * 30 + [70] * 70, overlong="drop")
    with pytest.raises(ValueError, match="70 of 100 rows .* 70 dropped .longer than a"):
        _prepared(config)
    chosen = dataclasses.replace(config, where={"answer": {"max_chars": 60}})
    assert not _warning(chosen)
    with open(config.path, "a") as file:
        file.write("\n{}" * 40)
    config = dataclasses.replace(chosen, where={}, max_length=128, on_bad_row="skip")
    assert "40 skipped as bad. Repair the bad rows" in _warning(config)
    gold = dataclasses.replace(config, max_dropped=0.1)
    with pytest.raises(ValueError, match="40 of 140 rows (.|\n)*rows.jsonl:101: field"):
        problems(gold)
    report = DataReport()
    assert len(problems(config, report=report)) == 100 and report.warning


def test_a_refused_length_can_be_allowed_without_reading_again(tmp_path):
    """The share is no part of the tokens, which stay in the cache."""
    config = _config(tmp_path, [64] * 40 + [70] * 60)
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match="60 of 100"):
        prepare(config, byte_tokenizer(), cache)
    allowed = dataclasses.replace(config, max_dropped=1.0)
    dataset = prepare(allowed, byte_tokenizer(), cache).train
    assert "tokens from the cache" in dataset.cache_log[0] and dataset.report.warning
    with pytest.raises(ValueError, match="60 of 100"):
        prepare(config, byte_tokenizer(), cache)


def test_the_newcomers_length_is_refused(shared, tmp_path):
    """200 problems of GSM8K in rows of 64 byte tokens: almost nothing is left."""
    with gzip.open(shared / "data" / "gsm8k" / "train.jsonl.gz") as file:
        lines = [line for _, line in zip(range(200), file)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="no trained token left after truncation"):
        _prepared(DataConfig(path=str(path), max_length=64))


def test_the_example_shown_is_complete_if_there_is_one(tmp_path):
    tokenizer = byte_tokenizer()
    config = _config(tmp_path, [90] * 5 + [20] * 5 + [95] * 2, max_dropped=1.0)
    example = _prepared(config).example
    assert example.tokens[-1] == tokenizer.eos_token_id and len(example.tokens) == 20
    config = _config(tmp_path, [90] * 5, max_dropped=1.0)
    assert len(_prepared(config).example.tokens) == 64
