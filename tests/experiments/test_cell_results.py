"""Results of cells, read from made-up run directories."""

import dataclasses
import json
from pathlib import Path

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments import cell_results
from targetsft_jax.experiments.cell_results import HISTORY, results
from targetsft_jax.experiments.grid import Entry
from targetsft_jax.storage.run_dir import RunDir

PROBE = {"clean": {"tokens": 3}}
SEEDS = [0, 1]
SCORE = AverageAtK(0.75, 0.25, 1.0, 0.0, 0.0, 2, 2)


@pytest.fixture
def entry(tmp_path, monkeypatch) -> Entry:
    """Target-SFT with two seeds, of which those with verdicts count as finished."""

    def finished_scores(config):
        done = Path(config.run_dir, "completions_target_sft.jsonl").exists()
        return {"target_sft": SCORE} if done else None

    monkeypatch.setattr(cell_results, "finished_scores", finished_scores)
    paths = ["--student.path", "s", "--teacher.path", "t"]
    config = load([*paths, "--target.name", "target_sft"])
    hyper = {"eta": 0.25}
    return Entry("easy", "target_sft eta=0.25", hyper, SEEDS, config, tmp_path)


def write_cell(folder: Path, *models: str, steps: int = 0) -> None:
    """Write verdicts of two problems with two samples, metrics and label probes."""
    folder.mkdir(parents=True)
    rows = [{"id": "a", "correct": [True, True]}, {"id": "b", "correct": [False, True]}]
    for model in models:
        # Completions may have any character, such as a line separator of Unicode.
        rows = [row | {"completions": ["one\u2028two"]} for row in rows]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"completions_{model}.jsonl").write_text(text)
    record = Results(RunDir(folder))
    for name in ("start", *models):
        record.add_score(name, f"{name} of {folder.name}", SCORE)
    (folder / "label_probe.json").write_text(json.dumps(dict.fromkeys(models, PROBE)))
    (folder / "config.yaml").write_text("target: {name: target_sft}\n")
    metrics = [
        {"step": n, **dict.fromkeys(HISTORY, n / 2)} for n in range(1, steps + 1)
    ]
    metrics.append({"step": steps + 1, "nll": None})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)) + "\n")


def test_a_finished_cell_gives_its_verdicts_and_those_of_shared_models(entry):
    write_cell(entry.folder / "seed0", "start", "target_sft", steps=3)
    found, unfinished = results([entry])
    start, method = found
    assert (start.method, start.label, start.hyper) == ("start", "start", {})
    assert start.learning_rate is None and start.run_dir == ""
    assert (method.setting, method.seed) == ("easy", 0)
    assert (method.label, method.hyper) == ("target_sft eta=0.25", {"eta": 0.25})
    for result in found:
        assert (result.problems, result.correct) == (["a", "b"], [2, 1])
        assert result.samples == 2
    assert method.probe == {"before": PROBE, "after": PROBE}
    assert [cell.seed for cell in unfinished] == [1]


def test_a_course_has_the_steps_with_all_metrics_and_few_points(entry):
    write_cell(entry.folder / "seed0", "target_sft", steps=600)
    ((method,), _) = results([entry])
    assert list(method.history) == ["step", *HISTORY]
    steps = method.history["step"]
    assert steps[0] == 1 and len(steps) == 60 and max(steps) <= 600
    assert method.history["gamma"] == [step / 2 for step in steps]
    assert method.probe == {}  # The start was measured elsewhere.


def test_a_shared_model_is_listed_once_per_setting_and_seed(entry):
    """Also in a setting whose cells took its score from another setting's."""
    other = dataclasses.replace(entry, setting="hard", folder=entry.folder / "hard")
    for seed in SEEDS:
        write_cell(entry.folder / f"seed{seed}", "start", "target_sft")
        write_cell(other.folder / f"seed{seed}", "target_sft")
    found, unfinished = results([entry, entry, other])
    starts = [(r.setting, r.seed) for r in found if r.method == "start"]
    assert starts == [(name, seed) for name in ("easy", "hard") for seed in SEEDS]
    assert unfinished == []
