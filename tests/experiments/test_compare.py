"""Comparisons: cells in one process, shared models, finished and failed cells."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from support import rig

from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.compare import main
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments import compare as compare_module
from targetsft_jax.experiments.compare import selected_rate
from targetsft_jax.experiments.declaration import Comparison, Tuning
from targetsft_jax.experiments.grid import entries
from targetsft_jax.training import measure as measure_module
from targetsft_jax.training import run as run_module


@pytest.fixture
def command(folders, tmp_path) -> list[str]:
    """SFT and Target-SFT of the tiny models, with two problems each."""
    path = tmp_path / "comparison.yaml"
    tree = {
        "base": "base.yaml",
        "run_dir": str(tmp_path / "cells"),
        "methods": ["sft", "target_sft"],
    }
    path.write_text(yaml.safe_dump(tree))
    (tmp_path / "base.yaml").write_text("seed: 0\n")
    overrides = rig.small_run(
        folders,
        tmp_path / "unused",
        mesh__fsdp=2,
        mesh__tensor=2,
        evaluation__problems=2,
        evaluation__samples=1,
        evaluation__max_new_tokens=4,
        evaluation__include_teacher="true",
    )
    index = overrides.index("--run_dir")
    return ["--config", str(path), *overrides[:index], *overrides[index + 2 :]]


def test_cells_share_frozen_models_and_finished_cells_are_skipped(
    command, tmp_path, monkeypatch, capsys
):
    counts: Counter = Counter()

    def count(module, name, key):
        real = getattr(module, name)

        def counted(*arguments, **options):
            counts[key(*arguments)] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(StoredModel, "load", lambda model, *_: f"read {model.folder.name}")
    count(run_module, "fit", lambda *_: "training")
    count(measure_module, "evaluate_model", lambda *_: "evaluation")
    assert main(command) == 0
    printed = capsys.readouterr().out
    # Each training consumes the student, so it is read twice. The teacher is read once;
    # teacher and start are evaluated once.
    assert counts["read teacher"] == 1 and counts["read student"] == 2
    assert counts["training"] == 2 and counts["evaluation"] == 4
    assert re.search(
        r"\[2/2\] target_sft, seed 0: [\d.]+ \(\d+ s, 0 min left\)", printed
    )
    results = _results(tmp_path / "cells")
    assert [row["label"] for row in results] == [
        "start",
        "teacher",
        "sft",
        "target_sft",
    ]
    assert all(len(row["correct"]) == 2 and row["samples"] == 1 for row in results)
    assert results[2]["history"]["step"] and results[0]["history"] == {}
    log = (tmp_path / "cells/sft/seed0.log").read_text()
    assert "held-out problems" in log and "held-out problems" not in printed
    one, other = (
        json.loads((tmp_path / "cells" / name / "seed0/results.json").read_text())
        for name in ("sft", "target_sft")
    )
    assert one["scores"]["teacher"] == other["scores"]["teacher"]
    plain, guided = (
        rig.metrics_of(tmp_path / "cells" / name / "seed0")
        for name in ("sft", "target_sft")
    )
    # The same start and batches, but different methods.
    assert plain[0]["nll"] == pytest.approx(guided[0]["nll"], rel=1e-6)
    assert plain[1]["nll"] != guided[1]["nll"]
    counts.clear()
    assert main(command) == 0
    again = capsys.readouterr().out
    assert not counts and again.count("already finished") == 2
    assert _results(tmp_path / "cells") == results
    # With another evaluation the cells are not finished.
    more = [*command, "--evaluation.samples", "2", "--dry-run"]
    assert main(more) == 0
    assert capsys.readouterr().out.count("to run  ") == 2
    # Cells of another length would have two schedules: they are not extended.
    longer = [*command, "--train.steps", "6"]
    assert main([*longer, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to run  ") == 2
    assert main(longer) == 2
    assert "train.steps: was 4, is 6" in capsys.readouterr().err


def test_a_dry_run_runs_no_cell(command, monkeypatch, capsys):
    monkeypatch.setattr(compare_module, "run", None)
    assert main([*command, "--dry-run", "--seeds", "[0, 1]"]) == 0
    *lines, estimate = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("to run" in line for line in lines)
    assert lines[1].split()[:5] == ["to", "run", "sft,", "seed", "1"]
    assert estimate.startswith("0 cells finished, 4 to run")


def test_a_wrong_method_is_bad_usage(command, capsys):
    assert main([*command, "--methods", "[tsft]"]) == 2
    assert "no method 'tsft'" in capsys.readouterr().err


def test_a_failed_cell_does_not_end_the_comparison(
    command, tmp_path, monkeypatch, capsys
):
    def run(config, shared, extend):
        if config.method.name == "sft":
            raise ValueError("the loss was not finite")
        return {"target_sft": _score(0.5)}

    monkeypatch.setattr(compare_module, "run", run)
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "[1/2] sft, seed 0: failed: the loss was not finite" in printed
    assert "[2/2] target_sft, seed 0: 50.0" in printed
    notes = json.loads((tmp_path / "cells/sft/seed0.json").read_text())
    assert notes == {"failed": "the loss was not finite"}


@pytest.mark.parametrize(
    "scores, expected",
    [
        ({0.1: 0.2, 0.2: 0.3, 0.4: 0.1}, 0.2),
        # Equal scores: the lower rate. A failed trial is left out.
        ({0.1: 0.2, 0.2: 0.3, 0.4: 0.3}, 0.2),
        ({0.1: 0.2, 0.2: None, 0.4: 0.1}, 0.1),
    ],
)
def test_the_best_trial_selects_the_rate(tmp_path, monkeypatch, scores, expected):
    (entry,) = _tuned(tmp_path, list(scores))
    for trial in entry.trials():
        if scores[trial.config.train.learning_rate] is None:
            compare_module._record(trial, {"failed": "diverged"})

    def finished(config):
        value = scores[config.train.learning_rate]
        return None if value is None else {"sft": _score(value)}

    monkeypatch.setattr(compare_module, "finished_scores", finished)
    assert selected_rate(entry) == expected


def test_no_rate_is_selected_before_all_trials_ran(tmp_path):
    (entry,) = _tuned(tmp_path, [0.1, 0.2])
    with pytest.raises(ValueError, match="sft, trial of learning rate 0.1 is not fin"):
        selected_rate(entry)
    for trial in entry.trials():
        compare_module._record(trial, {"failed": "diverged"})
    with pytest.raises(ValueError, match="all learning rates failed"):
        selected_rate(entry)


def _tuned(tmp_path: Path, rates: list[float]):
    (tmp_path / "base.yaml").write_text("student: {path: s}\n")
    base = str(tmp_path / "base.yaml")
    run_dir = str(tmp_path / "cells")
    comparison = Comparison(base, run_dir, ["sft"], tuning=Tuning(rates))
    return entries(comparison, ["--data.source", "synthetic"])


def _score(value: float) -> AverageAtK:
    return AverageAtK(value, 0.0, value, 0.0, 0.0, 10, 2)


def _results(folder: Path) -> list[dict]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
