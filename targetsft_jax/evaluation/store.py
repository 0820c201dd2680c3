"""Results folder of one benchmark: settings.json and a row per completion.

Rows are keyed by (problem, sample). An interrupted evaluation therefore continues at
the first missing sample. Raising k keeps the stored samples. Grading needs no model.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.likelihood import Likelihood
from targetsft_jax.keys import shown
from targetsft_jax.parallel.processes import is_primary
from targetsft_jax.storage import atomic, json_file, jsonl

FREE = ("samples", "limit", "mode", "versions", "first_prompt", "batch_size")
"""Settings that may change: they do not alter a completion."""


@dataclass(frozen=True)
class Row:
    """A graded completion.

    Attributes:
        problem: id of the problem.
        sample: number of the sample, from 0.
        prompt: digest of the prompt's tokens.
        tokens: ids of the completion, without the stop token; empty for a server that
            returns text only.
        text: the completion.
        finished: a stop token ended it.
        seconds: share of the time of its batch.
        gold: the gold answer.
        grade: the verdict.
        likelihood: log-probabilities of the options, where they are scored.
    """

    problem: str
    sample: int
    prompt: str
    tokens: list[int]
    text: str
    finished: bool
    seconds: float
    gold: str
    grade: Grade
    likelihood: Likelihood | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values: correct, extracted and how are inside."""
        tree = {k: v for k, v in vars(self).items() if k not in ("grade", "likelihood")}
        if self.likelihood is not None:
            tree["likelihood"] = dataclasses.asdict(self.likelihood)
        return tree | dataclasses.asdict(self.grade)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Row":
        """Read a row; raises KeyError or TypeError for another shape."""
        grade = Grade(*(tree[name] for name in ("correct", "extracted", "how")))
        names = {field.name for field in dataclasses.fields(cls)}
        scored = tree.get("likelihood")
        return cls(
            **{name: tree[name] for name in names - {"grade", "likelihood"}},
            grade=grade,
            likelihood=None if scored is None else Likelihood(**scored),
        )


class Store:
    """Results folder of one benchmark.

    Args:
        folder: the folder; created when the first row is written.

    Attributes:
        rows: (problem, sample) -> row.
        damaged: number of lines that could not be read; they are sampled again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[tuple[str, int], Row] = {}
        self.damaged = 0
        for tree in jsonl.read(self.completions):
            try:
                row = Row.from_json(tree)
            except (KeyError, TypeError):
                self.damaged += 1
                continue
            self.rows[row.problem, row.sample] = row

    @property
    def completions(self) -> Path:
        """File of the rows."""
        return self.folder / "completions.jsonl"

    @property
    def settings(self) -> Path:
        """File of the settings."""
        return self.folder / "settings.json"

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check the settings against those of the stored rows, then store them.

        Raises:
            UsageError: another model, prompt or sampling; names the key.
        """
        if self.rows:
            stored = self.read_settings()
            for name in [n for n in {**stored, **settings} if n not in FREE]:
                if stored.get(name) != settings.get(name):
                    raise UsageError(
                        f"{self.folder} has completions with another {name}: "
                        f"{shown(stored.get(name))}, not {shown(settings.get(name))}; "
                        "set --out to another folder, or remove this one"
                    )
        if not is_primary():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(settings), indent=2, ensure_ascii=False) + "\n"
        atomic.write_text(self.settings, text)

    def read_settings(self) -> dict[str, Any]:
        """Read the stored settings.

        Raises:
            UsageError: the file is missing or damaged, although there are rows.
        """
        try:
            return json_file.read_object(self.settings)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the settings of {self.completions} cannot be read ({error}); set "
                "--out to another folder, or remove this one"
            ) from None

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; the primary process writes them to the file."""
        rows = list(rows)
        if is_primary():
            self.folder.mkdir(parents=True, exist_ok=True)
            with jsonl.Writer(self.completions) as writer:
                for row in rows:
                    writer.append(row.to_json())
        self.rows |= {(row.problem, row.sample): row for row in rows}

    def replace(self, rows: Iterable[Row]) -> None:
        """Replace all rows; the primary process rewrites the file atomically."""
        self.rows = {(row.problem, row.sample): row for row in rows}
        if not is_primary():
            return
        lines = (
            json.dumps(row.to_json(), ensure_ascii=False) + "\n"
            for row in self.rows.values()
        )
        atomic.write_text(self.completions, "".join(lines))
