"""Batches are a pure function of (seed, step); what is held out stays out."""

import dataclasses
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from targetsft_jax.data.config import DataConfig, FieldMap, SyntheticConfig
from targetsft_jax.data.pipeline import (
    batch_at,
    iterate,
    prepare,
    rows_at,
)
from targetsft_jax.data.records import load_records, problems
from targetsft_jax.data.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
SMALL = DataConfig(synthetic=SyntheticConfig(examples=50), max_length=64)


@pytest.fixture(scope="module")
def dataset():
    """50 rows, one problem each (two do not fit in 64 tokens)."""
    return prepare(SMALL, TOKENIZER).train


def row_names(batch):
    """Rows of a batch by their content."""
    return [row.tobytes() for row in batch["tokens"].reshape(-1, 64)]


def equal(a, b):
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_shapes_are_accumulation_batch_length(dataset):
    batch = batch_at(dataset, 3, batch_size=8, accumulation_steps=2, seed=1)
    assert list(batch) == dataset.columns
    assert {values.shape for values in batch.values()} == {(2, 4, 64)}


def test_an_epoch_visits_every_row_once_and_each_in_another_order(dataset):
    assert dataset.rows == 50
    epochs = [
        sum(
            (row_names(batch_at(dataset, 10 * e + s, batch_size=5)) for s in range(10)),
            [],
        )
        for e in range(2)
    ]
    everything = sorted(row.tobytes() for row in dataset.take(np.arange(50))["tokens"])
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]


def test_accumulation_splits_the_same_rows(dataset):
    whole = batch_at(dataset, 7, batch_size=8, seed=3)
    split = batch_at(dataset, 7, batch_size=8, accumulation_steps=4, seed=3)
    assert row_names(whole) == row_names(split)


def test_seed_and_step_decide(dataset):
    assert equal(
        batch_at(dataset, 9, batch_size=4, seed=2),
        batch_at(dataset, 9, batch_size=4, seed=2),
    )
    for other in (dict(seed=3), dict(seed=0)):
        assert row_names(batch_at(dataset, 9, batch_size=4, seed=2)) != row_names(
            batch_at(dataset, 9, batch_size=4, **other)
        )
    with pytest.raises(ValueError, match="step is -1"):
        batch_at(dataset, -1, batch_size=4)


@pytest.mark.parametrize("length", [64, 256], ids=["an example a row", "packed"])
def test_a_later_start_gives_the_tail(length):
    """From the middle of an epoch on, over its end."""
    config = dataclasses.replace(SMALL, max_length=length)
    dataset = prepare(config, TOKENIZER).train
    assert (dataset.rows < 20) == (length == 256)
    options = dict(batch_size=4, accumulation_steps=2, seed=5)
    full = [b for _, b in zip(range(20), iterate(dataset, **options))]
    tail = [b for _, b in zip(range(7), iterate(dataset, 13, **options))]
    assert all(equal(a, b) for a, b in zip(full[13:], tail, strict=True))
    assert all(equal(b, batch_at(dataset, i, **options)) for i, b in enumerate(full))


def test_another_process_gives_the_same(dataset):
    """Nothing depends on hash seeds, the clock or what ran before."""
    script = (
        "from targetsft_jax.data.config import *\n"
        "from targetsft_jax.data.pipeline import *\n"
        "from targetsft_jax.data.tokenizer import byte_tokenizer\n"
        "c = DataConfig(synthetic=SyntheticConfig(examples=50), max_length=64)\n"
        "d = prepare(c, byte_tokenizer()).train\n"
        "print(d.fingerprint, fingerprint(batch_at(d, 33, batch_size=4, seed=1)))\n"
    )
    from targetsft_jax.data.pipeline import fingerprint

    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    here = fingerprint(batch_at(dataset, 33, batch_size=4, seed=1))
    assert said == [dataset.fingerprint, here]


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_names_the_records_in_its_rows(packing):
    """What a row says it holds is what its tokens spell, in that order."""
    config = dataclasses.replace(SMALL, max_length=256, packing=packing)
    packed = prepare(config, TOKENIZER).train
    records, _ = load_records(config)
    said = {record.origin: record.messages[-1]["content"] for record in records}
    options = dict(batch_size=4, accumulation_steps=2, seed=4)
    rows = rows_at(packed, 3, **options)
    batch = batch_at(packed, 3, **options)
    assert rows.shape == (2, 2)
    for place in np.ndindex(2, 2):
        text = TOKENIZER.decode(batch["tokens"][place])
        spoken = [turn.split("<|end|>")[0] for turn in text.split("<|assistant|>")[1:]]
        origins = packed.origins(int(rows[place]))
        assert [said[origin] for origin in origins] == spoken
        assert len(origins) == batch["segment_ids"][place].max()
    everything = [
        origin for row in range(packed.rows) for origin in packed.origins(row)
    ]
    assert sorted(everything) == sorted(said)


def test_a_set_smaller_than_a_batch_repeats():
    config = dataclasses.replace(SMALL, synthetic=SyntheticConfig(examples=3))
    tiny = prepare(config, TOKENIZER).train
    names = row_names(batch_at(tiny, 0, batch_size=7))
    assert len(names) == 7 and len(set(names)) == 3
    assert len(set(names[:3])) == len(set(names[3:6])) == 3


def test_iterate_leaves_no_thread_behind(dataset):
    before = threading.active_count()
    iterator = iterate(dataset, batch_size=2)
    next(iterator)
    iterator.close()
    assert threading.active_count() <= before + 1  # grain's shared pool may stay


def test_the_fingerprint_follows_the_data(dataset):
    same = prepare(SMALL, TOKENIZER).train
    assert same.fingerprint == dataset.fingerprint
    for change in (
        dict(synthetic=SyntheticConfig(examples=50, label_noise=0.1)),
        dict(synthetic=SyntheticConfig(examples=50, seed=1)),
        dict(shuffle_seed=1),
        dict(max_length=65),
    ):
        other = prepare(dataclasses.replace(SMALL, **change), TOKENIZER).train
        assert other.fingerprint != dataset.fingerprint, change


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
    with pytest.raises(ValueError, match=r"no example is left(.|\n)*filtered"):
        prepare(dataclasses.replace(config, where={"q": "nobody"}), TOKENIZER)


@pytest.mark.parametrize("kinds", [{"addition": 1.0}, {"addition": 1.0, "dosing": 1.0}])
def test_held_out_problems_are_clean_distinct_and_not_trained_on(kinds):
    config = SyntheticConfig(kinds=kinds, examples=3000, digits=2, label_noise=0.5)
    found = problems(config, "heldout", 60)
    prompts = [problem.messages[-1]["content"] for problem in found]
    assert len(set(prompts)) == 60
    assert all(problem.messages[-1]["role"] == "user" for problem in found)
    assert problems(config, "heldout", 60) == found
    assert problems(config, "heldout", 20) == found[:20]
    for problem in found:
        a, plus, b = problem.messages[-1]["content"].rstrip("=?").partition("+")
        if plus:
            assert problem.answer == str(int(a) + int(b))
    trained = problems(config, "train", 1000)
    assert not set(prompts) & {p.messages[-1]["content"] for p in trained}


def test_too_few_problems_are_an_error():
    with pytest.raises(ValueError, match="distinct ones; expected 5000"):
        problems(SyntheticConfig(digits=1), "heldout", 5000)
    with pytest.raises(ValueError, match="split is 'test'"):
        problems(SyntheticConfig(), "test", 1)


def test_problems_of_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"q": "1+1=?", "a": "so\n#### 2"}, {"q": "2+2=?", "a": "#### 4"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(prompt="q", response="a", answer="a"),
    )
    found = problems(config)
    assert [p.messages for p in found] == [
        [{"role": "user", "content": "1+1=?"}],
        [{"role": "user", "content": "2+2=?"}],
    ]
    assert [p.answer for p in found] == ["so\n#### 2", "#### 4"]
    assert [p.id for p in found] == [f"{path}:1", f"{path}:2"]
    assert problems(config, n=1) == found[:1]
    with pytest.raises(ValueError, match="no problem is left"):
        problems(dataclasses.replace(config, where={"q": "none"}))
    with pytest.raises(ValueError, match="set fields.answer"):
        problems(dataclasses.replace(config, fields=FieldMap(prompt="q")))


def test_real_files_are_prepared_whole(shared):
    config = DataConfig(
        source="jsonl",
        path=str(shared / "data/pubmedqa/pqal.jsonl.gz"),
        fields=FieldMap(
            prompt="{CONTEXTS}\n\nQuestion: {QUESTION}",
            response="{LONG_ANSWER}\n#### {final_decision}",
        ),
        where={"split": "train"},
        max_length=2048,
    )
    report = prepare(config, TOKENIZER).train.report
    assert (report.rows, report.filtered, report.bad) == (1000, 500, 0)
    assert report.examples + sum(report.dropped.values()) == 500


def test_importing_is_cheap():
    """Nothing heavy until it is needed, such as readers of formats not asked for."""
    script = (
        "import sys, targetsft_jax.data.config, targetsft_jax.data.record,"
        " targetsft_jax.data.sources, targetsft_jax.data.synthetic\n"
        "import importlib.util as u, pathlib\n"
        "heavy = {'grain', 'transformers', 'flax', 'pyarrow', 'tensorflow_datasets'}\n"
        "import targetsft_jax.data.catalogue.builder, targetsft_jax.data.content_hash\n"
        "import targetsft_jax.data.pipeline, targetsft_jax.data.tokenizer\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "[]"


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(cached, tmp_path):
    """The same examples are held out whatever rows are made of them."""
    config = SMALL
    if cached:
        path = tmp_path / "rows.jsonl"
        rows = [{"q": f"{i} + {i}?", "a": f"{2 * i}"} for i in range(50)]
        path.write_text("\n".join(map(json.dumps, rows)))
        fields = FieldMap(prompt="q", response="a")
        config = DataConfig(
            source="jsonl", path=str(path), fields=fields, max_length=64
        )

    def origins(dataset):
        return [name for row in range(dataset.rows) for name in dataset.origins(row)]

    everything = origins(prepare(config, TOKENIZER, tmp_path).train)
    found = []
    for packing in (True, False):
        changed = dataclasses.replace(config, packing=packing)
        prepared = prepare(changed, TOKENIZER, tmp_path, held_out=9)
        trained, measured = prepared.train, prepared.held_out
        assert trained.report.held_out == len(origins(measured)) == 9
        assert sorted(origins(trained) + origins(measured)) == sorted(everything)
        assert trained.fingerprint != measured.fingerprint
        found.append(sorted(origins(measured)))
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"validation\.examples is 50 .* has 50"):
        prepare(config, TOKENIZER, tmp_path, held_out=50)
