"""Batches are a pure function of (seed, step); held-out examples are never trained."""

import dataclasses
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from targetsft_jax.data import packer, packing, pipeline, records
from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import (
    batch_at,
    iterate,
    prepare,
    rows_at,
)
from targetsft_jax.data.records import load_records
from targetsft_jax.data.report import DataReport
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
    single = batch_at(dataset, 7, batch_size=8, seed=3)
    split = batch_at(dataset, 7, batch_size=8, accumulation_steps=4, seed=3)
    assert row_names(single) == row_names(split)


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


@pytest.mark.parametrize("length", [64, 256], ids=["one example per row", "packed"])
def test_a_later_start_gives_the_tail(length):
    """A start in the middle of an epoch, continued past its end."""
    config = dataclasses.replace(SMALL, max_length=length)
    dataset = prepare(config, TOKENIZER).train
    assert (dataset.rows < 20) == (length == 256)
    options = dict(batch_size=4, accumulation_steps=2, seed=5)
    full = [b for _, b in zip(range(20), iterate(dataset, **options))]
    tail = [b for _, b in zip(range(7), iterate(dataset, 13, **options))]
    assert all(equal(a, b) for a, b in zip(full[13:], tail, strict=True))
    assert all(equal(b, batch_at(dataset, i, **options)) for i, b in enumerate(full))


def test_another_process_gives_the_same(dataset):
    """Nothing depends on hash seeds, the clock or earlier calls."""
    script = (
        "from targetsft_jax.data.config import *\n"
        "from targetsft_jax.data.fingerprint import fingerprint\n"
        "from targetsft_jax.data.pipeline import *\n"
        "from targetsft_jax.data.tokenizer import byte_tokenizer\n"
        "c = DataConfig(synthetic=SyntheticConfig(examples=50), max_length=64)\n"
        "d = prepare(c, byte_tokenizer()).train\n"
        "print(d.fingerprint, fingerprint(batch_at(d, 33, batch_size=4, seed=1)))\n"
    )
    from targetsft_jax.data.fingerprint import fingerprint

    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    here = fingerprint(batch_at(dataset, 33, batch_size=4, seed=1))
    assert output == [dataset.fingerprint, here]


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_names_the_records_in_its_rows(packing):
    """The records of a row are those that its tokens spell, in that order."""
    config = dataclasses.replace(SMALL, max_length=256, packing=packing)
    packed = prepare(config, TOKENIZER).train
    responses = {
        record.origin: record.messages[-1]["content"]
        for record in load_records(config)[0]
    }
    options = dict(batch_size=4, accumulation_steps=2, seed=4)
    rows = rows_at(packed, 3, **options)
    batch = batch_at(packed, 3, **options)
    assert rows.shape == (2, 2)
    for place in np.ndindex(2, 2):
        text = TOKENIZER.decode(batch["tokens"][place])
        texts = [turn.split("<|end|>")[0] for turn in text.split("<|assistant|>")[1:]]
        origins = packed.origins(int(rows[place]))
        assert [responses[origin] for origin in origins] == texts
        assert len(origins) == batch["segment_ids"][place].max()
    everything = [
        origin for row in range(packed.rows) for origin in packed.origins(row)
    ]
    assert sorted(everything) == sorted(responses)


def test_a_batch_that_does_not_divide_is_refused(dataset):
    problem = "batch_size is 7; expected a multiple of accumulation_steps = 2"
    for function in (rows_at, batch_at):
        with pytest.raises(ValueError, match=problem):
            function(dataset, 0, batch_size=7, accumulation_steps=2)


def test_batches_do_not_depend_on_the_report(tmp_path):
    """A blank report does not change the rows or their order, cached or not."""
    path = tmp_path / "rows.jsonl"
    rows = [{"q": f"{i}?", "a": "x" * (i % 9), "n": i} for i in range(1, 60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    file = SourceConfig(
        source="jsonl", path=str(path), fields=FieldMap(prompt="q", response="a")
    )
    halves = [
        dataclasses.replace(file, name=name, weight=weight, where={"n": condition})
        for name, weight, condition in (
            ("first", 3, {"max": 20}),
            ("second", 1, {"min": 21}),
        )
    ]
    config = DataConfig(mixture=halves, max_length=32, on_bad_row="skip")
    packed = prepare(config, TOKENIZER, tmp_path / "cache").train
    reread = prepare(config, TOKENIZER, tmp_path / "cache").train
    options = dict(batch_size=8, accumulation_steps=2, seed=5)
    for source in (packed, reread):
        blank = dataclasses.replace(source, report=DataReport())
        for step in range(12):
            one, two = (batch_at(x, step, **options) for x in (packed, blank))
            assert equal(one, two)
    shares = [
        (rows_at(packed, step, **options) < packed.layout.source_rows[0]).sum()
        for step in range(12)
    ]
    assert shares == [6] * 12


def test_preparing_validates_selects_and_shuffles_once(monkeypatch, tmp_path):
    """With a warm cache only the validation is repeated."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"q": f"{i}", "a": "b"}) for i in range(20)))
    config = DataConfig(
        source="jsonl", path=str(path), fields=FieldMap(prompt="q", response="a")
    )
    calls = []

    def count(module, name):
        real = getattr(module, name)

        def counted(*args, **options):
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(module, name, counted)

    count(pipeline, "validate")
    count(records, "validate")
    count(packing, "fit_to_rows")
    count(packer, "fingerprint")
    first = prepare(config, TOKENIZER, tmp_path / "cache", held_out=4)
    assert calls == ["validate", "fit_to_rows", "fingerprint", "fingerprint"]
    calls.clear()
    again = prepare(config, TOKENIZER, tmp_path / "cache", held_out=4)
    assert calls == ["validate"]
    for one, two in ((first.train, again.train), (first.held_out, again.held_out)):
        assert one.fingerprint == two.fingerprint and one.report == two.report
        rows = np.arange(one.rows)
        assert equal(one.take(rows), two.take(rows))


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


def test_every_row_of_real_files_is_prepared(shared):
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
    """Heavy modules, such as readers of other formats, are imported on use."""
    script = (
        "import sys, targetsft_jax.data.config, targetsft_jax.data.record,"
        " targetsft_jax.data.sources, targetsft_jax.data.synthetic\n"
        "import importlib.util as u, pathlib\n"
        "heavy = {'grain', 'transformers', 'flax', 'pyarrow', 'tensorflow_datasets'}\n"
        "import targetsft_jax.data.catalogue.builder, targetsft_jax.data.content_hash\n"
        "import targetsft_jax.data.pipeline, targetsft_jax.data.tokenizer\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("cached", [False, True])
def test_held_out_examples_are_not_trained_on_and_none_is_lost(cached, tmp_path):
    """The held-out examples do not depend on packing."""
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
    selections = []
    for packed in (True, False):
        changed = dataclasses.replace(config, packing=packed)
        prepared = prepare(changed, TOKENIZER, tmp_path, held_out=9)
        trained, held_out = prepared.train, prepared.held_out
        assert trained.report.held_out == len(origins(held_out)) == 9
        assert sorted(origins(trained) + origins(held_out)) == sorted(everything)
        assert trained.fingerprint != held_out.fingerprint
        selections.append(sorted(origins(held_out)))
    assert selections[0] == selections[1]
    with pytest.raises(ValueError, match=r"validation\.examples is 50 .* has 50"):
        prepare(config, TOKENIZER, tmp_path, held_out=50)
