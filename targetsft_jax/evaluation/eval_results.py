"""Write scores into an exported model folder: `.eval_results/` and the model card.

The hub reads `.eval_results/NAME.yaml` and shows the scores beside the model. A folder
that this package wrote remains intact by its manifest.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.hf.sidecar_files import CARD_FILE
from targetsft_jax.storage import manifest, yaml_file

FOLDER = ".eval_results"
_BEGIN, _END = "<!-- targetsft scores -->", "<!-- end of scores -->"


@dataclass(frozen=True)
class PublishedScore:
    """Score of a benchmark, as published with a model.

    Attributes:
        benchmark: name of the benchmark.
        title: its title.
        hub: id of its data set on the hub; None if it has none.
        task: id of the task on the hub.
        value: Average@k in percent, unrounded.
        low, high: 95 % confidence interval in percent.
        samples: k.
        problems: number of problems.
        notes: settings that the score depends on, in one line.
        date: day of the evaluation.
    """

    benchmark: str
    title: str
    hub: str | None
    value: float
    low: float
    high: float
    samples: int
    problems: int
    notes: str
    task: str = "default"
    date: datetime.date | None = None


def write_scores(folder: Path, scores: Sequence[PublishedScore]) -> list[Path]:
    """Write scores into an exported folder; a second call replaces its own scores.

    Args:
        folder: Hugging Face folder that this package exported.
        scores: one per benchmark.

    Returns:
        The files that were written.

    Raises:
        ValueError: the folder is not as this package wrote it: its files would be
            signed although they were changed.
        OSError: a file cannot be written.
    """
    changed = manifest.differences(folder)
    if changed:
        raise ValueError(
            f"{folder} is not as this package exported it ({'; '.join(changed[:3])}); "
            "expected an export, such as RUN/hf"
        )
    texts = {
        f"{FOLDER}/{score.benchmark}.yaml": yaml_file.dump([_entry(score)])
        for score in scores
    }
    card = folder / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        texts[CARD_FILE] = _with_scores(text, _stored(text) | _rows(scores))
    manifest.replace_texts(folder, texts)
    return [folder / name for name in texts]


def _entry(score: PublishedScore) -> dict[str, Any]:
    date = score.date or datetime.date.today()
    return {
        "dataset": {"id": score.hub or score.benchmark, "task_id": score.task},
        "value": score.value,
        "date": date.isoformat(),
        "notes": (
            f"Average@{score.samples} on {score.problems} problems, 95 % interval "
            f"{score.low:.2f} to {score.high:.2f}; {score.notes}"
        ),
    }


def _rows(scores: Sequence[PublishedScore]) -> dict[str, str]:
    return {
        _cell(score.title): (
            f"| {_cell(score.title)} | {score.value:.2f} | {score.low:.2f} to "
            f"{score.high:.2f} | {score.samples} | {score.problems:,} |"
        )
        for score in scores
    }


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _stored(text: str) -> dict[str, str]:
    """Rows of the scores in a model card, by title."""
    block = re.search(f"{_BEGIN}\n(.*?){_END}", text, re.DOTALL)
    if block is None:
        return {}
    lines = [line for line in block[1].splitlines() if line.startswith("| ")]
    return {line.split("|")[1].strip(): line for line in lines[1:]}


def _with_scores(text: str, rows: Mapping[str, str]) -> str:
    """Model card with the rows in its block of scores, which is added if absent."""
    table = [
        _BEGIN,
        "## Scores",
        "",
        "| benchmark | Average@k | 95 % interval | k | problems |",
        "|---|--:|--:|--:|--:|",
        *rows.values(),
        "",
        _END,
    ]
    block = "\n".join(table)
    if _BEGIN in text:
        pattern = f"{_BEGIN}\n.*?{_END}"
        return re.sub(pattern, lambda _: block, text, flags=re.DOTALL)
    return f"{text.rstrip()}\n\n{block}\n"
