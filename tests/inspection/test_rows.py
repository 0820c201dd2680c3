"""Rows of a page: those of training, in the files' order, and the limits of a page."""

import json

import numpy as np
import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.inspection import rows as module
from targetsft_jax.inspection.rows import data_of_file, read_rows

SYNTHETIC = SyntheticConfig(examples=60, digits=1)


def write(path, count, text="4"):
    lines = []
    for number in range(count):
        turns = [("user", f"{path.stem} {number}"), ("assistant", text * (number + 1))]
        messages = [{"role": role, "content": content} for role, content in turns]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_examples_are_those_of_training(tmp_path) -> None:
    data = DataConfig(
        path=write(tmp_path / "a.jsonl", 9), source="jsonl", max_length=12
    )
    tokenizer = byte_tokenizer()
    rows = read_rows(data, tokenizer, 7)
    dataset = prepare(data, tokenizer).train
    layout = dataset.layout
    trained = {
        dataset.examples.origins[int(n)]: dataset.examples.take(int(n), int(k))
        for n, k in zip(layout.examples, layout.lengths)
    }
    assert len(rows.examples) == 7
    for number, example in enumerate(rows.examples, 1):
        assert example.origin.endswith(f"a.jsonl:{number}")
        expected = trained[example.origin]
        np.testing.assert_array_equal(example.tokens, expected.tokens)
        np.testing.assert_array_equal(example.loss_mask, expected.loss_mask)
    assert max(len(example.tokens) for example in rows.examples) == 12


def test_the_number_of_rows_is_of_usable_ones(tmp_path) -> None:
    """Rows left out are replaced by later ones, and counted."""
    path = tmp_path / "b.jsonl"
    lengths = [1, 90, 90, 90, 90, 2, 90, 3, 90]
    lines = [
        {
            "messages": [
                {"role": r, "content": c * n}
                for r, c in (("user", "q"), ("assistant", "a"))
            ]
        }
        for n in lengths
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = DataConfig(path=str(path), source="jsonl", max_length=40, overlong="drop")
    rows = read_rows(data, byte_tokenizer(), 2)
    origins = [example.origin.rpartition(":")[2] for example in rows.examples]
    assert origins == ["1", "6"]
    assert any("5 left out (longer than a row)" in line for line in rows.lines())
    assert [e.origin[-1] for e in read_rows(data, byte_tokenizer(), 50).examples] == [
        "1",
        "6",
        "8",
    ]


def test_sources_of_a_mixture_take_turns(tmp_path) -> None:
    parts = [
        SourceConfig(path=write(tmp_path / f"{name}.jsonl", 4), source="jsonl")
        for name in "xy"
    ]
    rows = read_rows(DataConfig(mixture=parts), byte_tokenizer(), 3)
    names = [example.origin.rpartition("/")[2] for example in rows.examples]
    assert names == ["x.jsonl:1", "y.jsonl:1", "x.jsonl:2"]
    assert rows.source == "the first 3 examples of x.jsonl, y.jsonl"


def test_a_file_replaces_the_data(tmp_path) -> None:
    path = write(tmp_path / "mine.jsonl", 3)
    configured = DataConfig(synthetic=SYNTHETIC, max_length=64, limit=1)
    data = data_of_file(configured, path)
    rows = read_rows(data, byte_tokenizer(), None)
    assert rows.source == "all 3 examples of mine.jsonl"
    assert len(rows.examples) == 3


def test_more_tokens_than_a_page_holds_are_refused(monkeypatch) -> None:
    data = DataConfig(synthetic=SYNTHETIC)
    one = len(read_rows(data, byte_tokenizer(), 1).examples[0].tokens)
    monkeypatch.setattr(module, "LARGEST_TOKENS", 3 * one)
    with pytest.raises(UsageError) as error:
        read_rows(data, byte_tokenizer(), 20)
    message = str(error.value)
    assert "the 20 rows have" in message and f"at most {3 * one} tokens" in message
    fitting = int(message.rpartition("--rows ")[2])
    kept = read_rows(data, byte_tokenizer(), fitting).examples
    assert sum(len(example.tokens) for example in kept) <= 3 * one
    assert message.count(". ") == 0
