"""Records become examples with the index of their source."""

import dataclasses
import json

import pytest

from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.encoding import Encoder
from targetsft_jax.data.examples import from_flat, join_parts
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.tokenizer import byte_tokenizer


@pytest.fixture
def config(tmp_path):
    """Generated problems, a file of bad rows only, and a file with a thought."""
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.jsonl"
    bad.write_text(json.dumps({"q": "<|end|>", "a": "b"}))
    rows = [{"q": "1", "a": "<think>no</think>2"}, {"q": "1", "a": "<think>"}]
    good.write_text("\n".join(map(json.dumps, rows)))
    fields = FieldMap(prompt="q", response="a")
    files = [
        SourceConfig(source="jsonl", path=str(path), fields=fields)
        for path in (bad, good)
    ]
    synthetic = SourceConfig(synthetic=SyntheticConfig(examples=2))
    return DataConfig(mixture=[synthetic, *files], thinking="drop", on_bad_row="skip")


def test_every_example_has_the_number_of_its_source(config):
    """A source without an example does not shift the indices."""
    tokenizer = byte_tokenizer()
    encoder = Encoder(config, tokenizer)
    examples = from_flat(join_parts(encoder.parts()))
    assert examples.source.tolist() == [0, 0, 2]
    assert tokenizer.decode(examples.take(2).tokens) == "<|user|>1<|assistant|>2<|end|>"
    by_source = encoder.summary()["by_source"]
    assert by_source["synthetic"] == {"rows": 2, "encoded": 2}
    assert by_source["bad.jsonl"] == {"rows": 1, "bad": 1}
    assert by_source["good.jsonl"] == {"rows": 2, "bad": 1, "encoded": 1}
    assert encoder.report.bad == 2 and "generation" in encoder.report.mask_from


def test_without_examples_the_error_has_the_files_and_counts(config):
    files = DataConfig(mixture=config.mixture[1:2], on_bad_row="skip")
    problem = r"no example left to train on, from .*bad.jsonl:\n(.*\n)*bad rows skipped"
    with pytest.raises(ValueError, match=problem):
        list(Encoder(files, byte_tokenizer()).parts())


def test_a_bad_row_is_an_error_unless_skipped(config):
    strict = DataConfig(mixture=config.mixture, thinking="drop")
    with pytest.raises(RowError, match="bad.jsonl:1: turn 0 contains"):
        list(Encoder(strict, byte_tokenizer()).parts())


def test_rows_with_other_columns_than_the_first_are_skipped(tmp_path):
    """The first usable one: a bad row decides nothing."""
    path = tmp_path / "rows.jsonl"
    rows = [{"q": "<|end|>"}, {"q": "1", "trajectory_weight": 1}, {"q": "2"}]
    rows.append({"q": "3", "trajectory_weight": 1})
    path.write_text("\n".join(json.dumps(row | {"a": "b"}) for row in rows))
    fields = FieldMap(prompt="q", response="a")
    config = DataConfig(source="jsonl", path=str(path), fields=fields)
    skipping = dataclasses.replace(config, on_bad_row="skip")
    encoder = Encoder(skipping, byte_tokenizer())
    assert len(from_flat(join_parts(encoder.parts()))) == 2
    problem = f"{path}:3: the row has no trajectory_weight and {path}:2 has one"
    assert encoder.report.bad == 2 and problem in encoder.report.bad_rows[1]
    strict = dataclasses.replace(config, where={"q": ["1", "2"]})
    with pytest.raises(RowError, match="rows.jsonl:3: the row has no trajectory_weig"):
        list(Encoder(strict, byte_tokenizer()).parts())


def test_a_tokenizer_without_a_template_is_refused_before_anything_is_read(config):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        Encoder(config, tokenizer)
