"""Records and problems of every source: streamed, filtered, limited, counted."""

import dataclasses
import json

import pytest
from support import tables
from support.tables import load_all

from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.records import problems
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import RowError

QA = FieldMap(prompt="question", response="answer")
GOOD = {"question": "1+1=?", "answer": "2"}


@pytest.fixture
def mixed(tmp_path):
    """Fifteen lines: 0, 1, 2 good, then twelve bad ones of the train split."""
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(GOOD | {"split": s, "n": 5}) for s in ("train", "test")]
    lines.append(json.dumps(GOOD | {"split": "train", "n": 5}))
    lines += [json.dumps({"question": "?", "split": "train", "n": 5})] * 12
    path.write_text("\n".join(lines))
    return DataConfig(source="jsonl", path=str(path), fields=QA)


def test_skipping_counts_all_and_lists_the_first(mixed):
    config = dataclasses.replace(
        mixed, on_bad_row="skip", where={"split": "train", "n": "5"}
    )
    records, report = load_all(config)
    assert [record.origin[-2:] for record in records] == [":1", ":3"]
    assert (report.rows, report.filtered, report.bad) == (15, 1, 12)
    assert "filtered by where    1 (split 1)" in str(report)
    assert {record.source for record in records} == {"mixed.jsonl"}
    assert [record.id for record in records] == ["mixed.jsonl:1", "mixed.jsonl:3"]
    assert len(report.bad_rows) == 10
    assert report.bad_rows[0].startswith(f"{config.path}:4: field 'answer' is missing")
    assert "… and 2 more" in str(report)
    with pytest.raises(RowError, match=":4: field 'answer' is missing"):
        load_all(mixed)


def test_limit_stops_reading_and_is_reported(mixed):
    records, report = load_all(dataclasses.replace(mixed, limit=2))
    assert len(records) == 2 and report.rows == 2
    assert "stopped by data.limit" in str(report)


def test_a_missing_filter_field_is_a_bad_row(mixed):
    with pytest.raises(RowError, match=":1: field 'spilt' is missing"):
        load_all(dataclasses.replace(mixed, where={"spilt": "train"}))


@pytest.mark.parametrize("kinds", [{"addition": 1.0}, {"addition": 1.0, "dosing": 1.0}])
def test_held_out_problems_are_clean_distinct_and_not_trained_on(kinds):
    config = SyntheticConfig(kinds=kinds, examples=3000, digits=2, label_noise=0.5)
    selection = problems(config, "heldout", 60)
    prompts = [problem.messages[-1]["content"] for problem in selection]
    assert len(set(prompts)) == 60
    assert all(problem.messages[-1]["role"] == "user" for problem in selection)
    assert problems(config, "heldout", 60) == selection
    assert problems(config, "heldout", 20) == selection[:20]
    for problem in selection:
        a, plus, b = problem.messages[-1]["content"].rstrip("=?").partition("+")
        if plus:
            assert problem.answer == str(int(a) + int(b))
    trained = problems(config, "train", 1000)
    assert not set(prompts) & {p.messages[-1]["content"] for p in trained}


def test_too_few_problems_are_an_error():
    with pytest.raises(ValueError, match="distinct generated problems; expected 5000"):
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
    selection = problems(config)
    assert [p.messages for p in selection] == [
        [{"role": "user", "content": "1+1=?"}],
        [{"role": "user", "content": "2+2=?"}],
    ]
    assert [p.answer for p in selection] == ["so\n#### 2", "#### 4"]
    assert [p.id for p in selection] == [f"{path}:1", f"{path}:2"]
    assert problems(config, n=1) == selection[:1]
    with pytest.raises(ValueError, match="no problem left"):
        problems(dataclasses.replace(config, where={"q": "none"}))
    with pytest.raises(ValueError, match="set fields.answer"):
        problems(dataclasses.replace(config, fields=FieldMap(prompt="q")))


def test_rows_of_an_evaluation_are_counted(mixed):
    """The rows that it skips are not lost, and an empty file is named."""
    report = DataReport()
    fields = dataclasses.replace(QA, answer="answer")
    config = dataclasses.replace(mixed, fields=fields, on_bad_row="skip", max_dropped=1)
    assert len(problems(config, report=report)) == 3
    assert (report.rows, report.bad, report.examples) == (15, 12, 3)
    with open(config.path, "w"):
        pass
    with pytest.raises(ValueError, match="no problem left .*, from .*mixed.jsonl"):
        problems(config)


def test_a_missing_field_is_named_beside_those_of_the_table(tmp_path):
    path = tables.write_parquet(tmp_path / "a.parquet")
    fields = FieldMap(prompt="question", response="anser")
    config = DataConfig(source="parquet", path=path, fields=fields)
    with pytest.raises(RowError, match="'anser' is missing; .* has contexts, n, opti"):
        load_all(config)


def test_parquet_becomes_records(tmp_path):
    path = tables.write_parquet(tmp_path / "a.parquet")
    config = DataConfig(
        source="parquet", path=path, fields=tables.QA, where={"n": {"min": 3, "max": 5}}
    )
    records, report = load_all(config)
    assert [r.messages[0]["content"] for r in records] == [
        f"one\ntwo q{i}" for i in (3, 4, 5)
    ]
    assert [r.id for r in records] == ["a.parquet:4", "a.parquet:5", "a.parquet:6"]
    assert (report.rows, report.filtered) == (2500, 2497)
    null = FieldMap(prompt="question", response="options.B")
    with pytest.raises(ValueError, match=r"a.parquet:4: field 'options.B' is NoneType"):
        load_all(dataclasses.replace(config, fields=null))


def test_a_mixture_streams_its_sources_one_after_another(tmp_path):
    path = tables.write_parquet(tmp_path / "a.parquet", tables.ROWS[:5])
    config = DataConfig(
        mixture=[
            SourceConfig(name="sums", synthetic=SyntheticConfig(examples=9), limit=4),
            SourceConfig(
                source="parquet", path=path, fields=tables.QA, where={"n": [1, 2]}
            ),
        ]
    )
    records, report = load_all(config)
    assert [r.source for r in records] == ["sums"] * 4 + ["a.parquet"] * 2
    assert report.rows == 9 and report.filtered == 3 and report.limited
    assert report.by_source == {
        "sums": {"rows": 4},
        "a.parquet": {"rows": 5, "filtered": 3},
    }


def test_calculator_marks_are_removed_from_responses(tmp_path):
    marked = "She has 2*3=<<2*3=6>>6 and <<1+1=2>>2.\n#### 6"
    rows = [{"question": "<<?>>", "answer": marked}, {"question": "?", "answer": "6"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(path=str(path), remove="<<[^>]*>>")
    records, report = load_all(config)
    contents = [[turn["content"] for turn in r.messages] for r in records]
    assert contents == [["<<?>>", "She has 2*3=6 and 2.\n#### 6"], ["?", "6"]]
    assert "texts removed from   1 rows (data.remove)" in report.lines()
    assert records[0].answer == marked
    with pytest.raises(RowError, match=":2: turn 1 is empty without the matches of d"):
        load_all(dataclasses.replace(config, remove="6"))
    unmarked = dataclasses.replace(config, remove="@@")
    assert "texts removed from   0 rows (data.remove)" in load_all(unmarked)[1].lines()
    for pattern in ("(", "x*"):
        with pytest.raises(ValueError, match="data.remove is .* a regular expression"):
            load_all(dataclasses.replace(config, remove=pattern))


def test_marks_of_published_rows_are_removed(shared):
    path = str(shared / "data" / "gsm8k" / "train.jsonl.gz")
    config = DataConfig(path=path, remove="<<[^>]*>>", limit=200)
    records, report = load_all(config)
    assert not any("<<" in record.messages[1]["content"] for record in records)
    assert report.removed["train.jsonl.gz"] > 190
