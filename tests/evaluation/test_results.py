"""RUN/results.json: scores, export and completion of a run, read back."""

import dataclasses
import math

import pytest

from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.storage import manifest
from targetsft_jax.storage.run_dir import RunDir

SCORE = AverageAtK(0.5, 0.1, 0.75, 0.0, 0.25, 8, 4)


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir(tmp_path)


def _export(run_dir: RunDir) -> None:
    run_dir.export.mkdir()
    (run_dir.export / "config.json").write_text("{}")
    manifest.write(run_dir.export)


def test_a_score_is_read_back_under_its_key_alone(run_dir):
    results = Results(run_dir)
    assert results.score("start", "k") is None
    results.add_score("start", "k", SCORE)
    again = Results(run_dir)
    assert again.score("start", "k") == SCORE
    assert again.score("start", "other") is None
    assert again.scores() == {"start": SCORE}


@pytest.mark.parametrize("value", ["x", None, math.nan, math.inf, 10**400, [1]])
def test_a_score_that_is_no_number_is_measured_again(run_dir, value):
    results = Results(run_dir)
    results.add_score("start", "k", dataclasses.replace(SCORE, average_at_k=value))
    assert Results(run_dir).score("start", "k") is None
    assert Results(run_dir).scores() == {}
    _export(run_dir)
    results.set_finished(True)
    assert not Results(run_dir).finished


def test_an_export_counts_while_its_folder_is_there(run_dir):
    results = Results(run_dir)
    _export(run_dir)
    results.set_exported(4, "rows")
    again = Results(run_dir)
    assert again.is_exported(4, "rows")
    assert not again.is_exported(5, "rows") and not again.is_exported(4, "others")
    (run_dir.export / "config.json").unlink()
    assert not again.is_exported(4, "rows")


@pytest.mark.parametrize("name", ["config.json", manifest.FILE])
def test_a_damaged_or_foreign_export_does_not_count(run_dir, name):
    results = Results(run_dir)
    _export(run_dir)
    results.set_exported(4, "rows")
    results.set_finished(True)
    (run_dir.export / "note").write_text("an addition is no damage")
    assert results.is_exported(4, "rows") and results.finished
    run_dir.model.mkdir()
    run_dir.adapters.write_text("{}")
    assert not results.finished  # its adapter/ is missing
    run_dir.adapters.unlink()
    (run_dir.export / name).write_text("changed")
    assert not results.is_exported(4, "rows") and not results.finished


def test_a_finished_run_needs_its_export(run_dir):
    Results(run_dir).set_finished(True)
    assert not Results(run_dir).finished
    _export(run_dir)
    assert Results(run_dir).finished
    Results(run_dir).set_finished(False)
    assert not Results(run_dir).finished


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 99_999,
        '{"scores": 3}',
        '{"scores": {"start": 3}}',
        '{"export": 1}',
    ],
)
def test_a_damaged_file_counts_as_no_results(run_dir, text):
    run_dir.results.write_text(text)
    results = Results(run_dir)
    assert results.score("start", "k") is None
    assert not results.finished and not results.is_exported(4, "rows")


def test_a_damaged_score_is_measured_again(run_dir):
    Results(run_dir).add_score("start", "k", SCORE)
    text = run_dir.results.read_text().replace('"average_at_k"', '"average"')
    run_dir.results.write_text(text)
    assert Results(run_dir).score("start", "k") is None
