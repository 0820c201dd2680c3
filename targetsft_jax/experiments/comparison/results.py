"""Results of the cells of a comparison, and their file results.jsonl."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.storage import atomic, json_file, text_file


@dataclass(frozen=True)
class CellResult:
    """Verdicts and measurements of one trained model, or of a shared one.

    Attributes:
        setting: name of the setting; "" if there is one only.
        method: name in the registry; "start" or "teacher" for the shared models.
        label: name in tables, such as `target_sft eta=0.25`.
        hyper: hyper-parameters that the comparison sets.
        seed: seed of the cell.
        learning_rate: peak learning rate; None for a shared model.
        problems: ids of the problems, in one order for all cells of a setting.
        correct: correct completions of each problem.
        samples: completions per problem.
        history: "step" and metrics over training; may be empty.
        probe: label probes "before" and "after"; may be empty.
        run_dir: run directory; "" for a shared model.
    """

    setting: str
    method: str
    label: str
    hyper: dict[str, Any]
    seed: int
    learning_rate: float | None
    problems: list[str]
    correct: list[int]
    samples: int
    history: dict[str, list[float]]
    probe: dict[str, Any]
    run_dir: str


def write(path: Path, rows: Iterable[CellResult]) -> None:
    """Write results as one JSON object per line; non-finite numbers become null."""
    with_nulls = (_nulls(dataclasses.asdict(row)) for row in rows)
    lines = (
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        for row in with_nulls
    )
    atomic.write_text(path, "".join(lines))


def read(path: Path) -> list[CellResult]:
    """Read the results of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a result; names the file, the line and the key.
    """
    text = text_file.read_text(path, limit=json_file.BYTES)
    # Line feeds only: ids may contain other line separators of Unicode.
    lines = enumerate(text.split("\n"), 1)
    return [_row(line, f"{path}:{n}") for n, line in lines if line.strip()]


_TEXT = ("a text", lambda value: isinstance(value, str))
_OBJECT = ("an object", lambda value: isinstance(value, dict))

_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "setting": _TEXT,
    "method": (
        "a text, not empty",
        lambda value: isinstance(value, str) and value != "",
    ),
    "label": (
        "a text, not empty",
        lambda value: isinstance(value, str) and value != "",
    ),
    "hyper": _OBJECT,
    "seed": ("a whole number", lambda value: _is_whole(value)),
    "learning_rate": (
        "a number or null",
        lambda value: value is None or _is_number(value),
    ),
    "problems": (
        "a list of different ids, not empty",
        lambda value: (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(name, str) for name in value)
            and len(set(value)) == len(value)
        ),
    ),
    "correct": (
        "a list of whole numbers",
        lambda value: isinstance(value, list) and all(map(_is_whole, value)),
    ),
    "samples": (
        "a whole number of at least 1",
        lambda value: _is_whole(value) and value >= 1,
    ),
    "history": (
        "an object of lists of numbers, all of one length",
        lambda value: (
            isinstance(value, dict)
            and all(isinstance(series, list) for series in value.values())
            and all(x is None or _is_number(x) for s in value.values() for x in s)
            and len({len(series) for series in value.values()}) <= 1
        ),
    ),
    "probe": _OBJECT,
    "run_dir": _TEXT,
}
"""Key -> expected value in words, and its check."""


def _row(line: str, where: str) -> CellResult:
    row = json_file.parse(line, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where} is {_short(row)}; expected an object")
    for name in [*_FIELDS, *row]:
        if name not in row or name not in _FIELDS:
            problem = "has no" if name in _FIELDS else "has the unknown"
            raise ValueError(
                f"{where} {problem} key {name[:60]!r}; expected the keys "
                f"{', '.join(_FIELDS)}; run the comparison to rewrite the file"
            )
        expected, check = _FIELDS.get(name, _TEXT)
        if not check(row[name]):
            raise ValueError(
                f"{where}: {name} is {_short(row[name])}; expected {expected}"
            )
    problems, correct, samples = row["problems"], row["correct"], row["samples"]
    if len(correct) != len(problems):
        raise ValueError(
            f"{where}: correct has {len(correct)} numbers; expected {len(problems)}, "
            "one per problem"
        )
    for problem, count in zip(problems, correct):
        if not 0 <= count <= samples:
            raise ValueError(
                f"{where}: correct is {count} for problem {problem[:60]}; expected 0 "
                f"to {samples}, the samples per problem"
            )
    row["history"] = {
        name: [math.nan if x is None else float(x) for x in series]
        for name, series in row["history"].items()
    }
    return CellResult(**row)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _nulls(value: Any) -> Any:
    """Replace non-finite floats by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _nulls(inner) for key, inner in value.items()}
    return [_nulls(inner) for inner in value] if isinstance(value, list) else value
