"""Scores in an exported folder: files of the hub, model card, manifest."""

import dataclasses
import datetime
from pathlib import Path

import pytest

from targetsft_jax.evaluation.eval_results import PublishedScore, write_scores
from targetsft_jax.storage import manifest, yaml_file

SCORE = PublishedScore(
    benchmark="gsm8k",
    title="GSM8K",
    hub="openai/gsm8k",
    value=41.25,
    low=38.5,
    high=44.0,
    samples=16,
    problems=1319,
    notes="strict, temperature 1",
    date=datetime.date(2026, 11, 28),
)


@pytest.fixture
def export(tmp_path) -> Path:
    (tmp_path / "README.md").write_text("# A model\n\nText.\n")
    (tmp_path / "config.json").write_text("{}")
    manifest.write(tmp_path)
    return tmp_path


def test_scores_are_written_in_the_format_of_the_hub(export):
    write_scores(export, [SCORE])
    (entry,) = yaml_file.parse(
        (export / ".eval_results/gsm8k.yaml").read_text(), "gsm8k"
    )
    assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "default"}
    assert entry["value"] == 41.25 and str(entry["date"]) == "2026-11-28"
    assert "Average@16 on 1319 problems" in entry["notes"]
    assert "strict, temperature 1" in entry["notes"]
    assert manifest.differences(export) == []


def test_a_second_call_replaces_its_own_scores(export):
    write_scores(export, [SCORE])
    other = dataclasses.replace(SCORE, benchmark="svamp", title="SVAMP", value=12.0)
    write_scores(export, [other])
    write_scores(export, [dataclasses.replace(SCORE, value=50.0)])
    card = (export / "README.md").read_text()
    assert card.startswith("# A model\n\nText.\n")
    rows = [line for line in card.splitlines() if line.startswith(("| GSM", "| SVA"))]
    assert rows == [
        "| GSM8K | 50.00 | 38.50 to 44.00 | 16 | 1,319 |",
        "| SVAMP | 12.00 | 38.50 to 44.00 | 16 | 1,319 |",
    ]
    assert manifest.differences(export) == []


def test_a_changed_folder_is_refused(export):
    """Its manifest would sign files that this package did not write."""
    (export / "config.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="config.json was changed.*expected an export"):
        write_scores(export, [SCORE])
    assert not (export / ".eval_results").exists()
