"""The preview shows rows with the loss mask, and counts repetitions."""

import json
from pathlib import Path

import pytest

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.preview import print_preview
from targetsft_jax.data.records import Problem
from targetsft_jax.data.tokenizer import byte_tokenizer


@pytest.fixture
def config(tmp_path):
    """Five usable rows, one of them truncated, and a bad one."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"q": "1+1=?", "a": "2"},
        {"q": "2+2=?", "a": "4"},
        {"q": "1+1=?", "a": "two"},
        {"q": "1+1=?", "a": "2"},
        {"q": "no answer"},
        {"q": "long", "a": "x" * 50},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(prompt="q", response="a"),
        max_length=32,
        on_bad_row="skip",
    )


def _lines(capsys, *args, **options):
    print_preview(*args, **options)
    return capsys.readouterr().out.splitlines()


def test_rows_are_shown_by_segment_with_trained_tokens_marked(config, capsys):
    lines = _lines(capsys, config, byte_tokenizer(), rows=9)
    assert "<|user|>1+1=?<|assistant|>⟦2<|end|>⟧" in lines
    assert "<|user|>2+2=?<|assistant|>⟦4<|end|>⟧" in lines
    assert any(line.startswith("  segment 2: ") for line in lines)
    # Three rows, repeated in a batch of nine.
    assert sum(line.startswith("row ") for line in lines) == 9
    assert any("  segment 1: 32 tokens, 26 trained" in line for line in lines)


def test_a_terminal_does_not_obey_the_text(config, capsys):
    """Escape sequences and marks that reverse the text are printed escaped."""
    row = {"q": "\x1b[2J\x07 \u202e)1(", "a": "\u2066\x9b"}
    path = Path(config.path)
    path.write_text(json.dumps(row) + "\n")
    printed = "\n".join(_lines(capsys, config, byte_tokenizer(), rows=1))
    assert not set(printed) & set("\x1b\x07\u202e\u2066\x9b")
    assert r"\x1b[2J\x07 \u202e)1(" in printed and r"\u2066\x9b" in printed


def test_no_rows_leave_the_counts(config, capsys):
    lines = _lines(capsys, config, byte_tokenizer(), rows=0)
    assert not any(line.startswith("row ") for line in lines)
    assert "  rows read            6" in lines


def test_repetitions_and_overlaps_are_counted_with_their_records(config, capsys):
    problem = Problem([{"role": "user", "content": "2+2=?"}], "4", "test:1")
    lines = _lines(capsys, config, byte_tokenizer(), [problem])
    expected = {
        "rows read": "6",
        "bad rows skipped": "1",
        "truncated": "1",
        "same conversation": "1",
        "same prompt, another response": "1",
        "same question": "1",
        "30 consecutive words": "0",
    }
    for name, count in expected.items():
        (line,) = (line for line in lines if line.strip().startswith(name))
        assert line.split()[-1] == count, line
    text = "\n".join(lines)
    assert "rows.jsonl:4 and rows.jsonl:1" in text
    assert "rows.jsonl:2 and test:1" in text
    text = "\n".join(_lines(capsys, config, byte_tokenizer()))
    assert "same question" not in text and "there is no evaluation" in text
