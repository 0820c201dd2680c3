"""Comparisons: cells in one process, shared models, finished cells, tables."""

import json
from collections import Counter

import pytest
import yaml
from support import rig

from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.compare import main
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments import compare as compare_module
from targetsft_jax.experiments.compare import tables
from targetsft_jax.experiments.grid import Cell
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
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if "|" in line]
    assert rows[-4:] == ["teacher", "start", "sft", "target_sft"]
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
    assert again.splitlines()[-4:] == printed.splitlines()[-4:]
    # With another evaluation the cells are not finished.
    more = [*command, "--evaluation.samples", "2", "--dry-run"]
    assert main(more) == 0
    assert capsys.readouterr().out.count("to run") == 2


def test_a_dry_run_runs_no_cell(command, monkeypatch, capsys):
    monkeypatch.setattr(compare_module, "run", None)
    assert main([*command, "--dry-run", "--seeds", "[0, 1]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("to run" in line for line in lines)
    assert lines[1].split()[:3] == ["sft", "seed", "1"]


def test_a_wrong_method_is_bad_usage(command, capsys):
    assert main([*command, "--methods", "[tsft]"]) == 2
    assert "no method 'tsft'" in capsys.readouterr().err


def test_seeds_are_summarised(capsys):
    def score(value: float) -> AverageAtK:
        return AverageAtK(value, 0.0, value, 0.0, 0.0, 10, 2)

    cells = [
        Cell(name, seed, None)  # type: ignore[arg-type]
        for name in ("sft", "dft")
        for seed in (0, 1)
    ]
    scores = {
        "sft, seed 0": score(0.25),
        "sft, seed 1": score(0.75),
        "dft, seed 0": score(0.5),
        "dft, seed 1": score(0.5),
    }
    text = "\n".join(tables(cells, scores))
    assert "| sft | 50.00 | 25.00 | 75.00 |" in text
    assert "| dft | 50.00 | 50.00 | 50.00 |" in text
    assert "no cell has scores" in tables(cells, {})[0]
