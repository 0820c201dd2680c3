"""Mined rows on disk: a data set, with settings and outcomes beside it.

    OUT                  one row per used problem: messages, answer, id, critical_mask
    OUT.settings.json    model, data and settings that the rows come from
    OUT.outcomes.jsonl   one line per examined problem: used, or the reason why not

A row is written before its outcome. After a kill between the two, the row is removed
and its problem examined again.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.storage import atomic, json_file, jsonl, lock

USED = "used"
"""Outcome of a problem that has a row."""


class MinedFile:
    """Rows and outcomes of one mining, open for appending.

    Args:
        path: file of the rows.
        rows, outcomes: writers.

    Attributes:
        path: file of the rows.
        outcomes: id of each examined problem -> its line in the file of outcomes.
    """

    def __init__(self, path: Path, rows: jsonl.Writer, outcomes: jsonl.Writer):
        self.path = path
        self.outcomes = {row["id"]: row for row in jsonl.read(_outcomes(path))}
        self._rows, self._lines = rows, outcomes

    def add(self, outcome: Mapping[str, Any], row: Mapping[str, Any] | None) -> None:
        """Append the outcome of a problem, after its row if there is one."""
        if row is not None:
            self._rows.append(row)
        self._lines.append(outcome)
        self.outcomes[outcome["id"]] = dict(outcome)

    def rows(self) -> list[dict[str, Any]]:
        """Rows that are written so far."""
        return jsonl.read(self.path)


@contextlib.contextmanager
def open_mined(
    path: Path, settings: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[MinedFile]:
    """Open the file of a mining, new or to be continued; one process at a time.

    Args:
        path: file of the rows.
        settings: command-line key -> value; a continuation must have the same.
        names: key of `settings` -> name of its value, for messages.

    Raises:
        UsageError: the file belongs to another mining; names the first key that
            differs. Or it is not of this command.
        OSError: another process writes to it.
    """
    with lock.hold(path.with_name(path.name + ".lock")):
        _check(path, settings, names)
        _repair(path)
        with (
            jsonl.Writer(path) as rows,
            jsonl.Writer(_outcomes(path)) as outcomes,
        ):
            yield MinedFile(path, rows, outcomes)


def _check(path: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Compare the settings with the stored ones; store those of a new file."""
    stored = _settings(path)
    # As they are read back: tuples become lists.
    current = json.loads(json.dumps(settings))
    if not stored.exists():
        if path.exists() and path.stat().st_size:
            raise UsageError(
                f"--out {path} exists and {stored.name} does not, so that its model and"
                " settings are unknown; remove the file, or choose another --out"
            )
        document = {"settings": current, "names": names}
        atomic.write_text(stored, json.dumps(document, indent=2) + "\n")
        return
    document = json_file.read_object(stored)
    before, before_names = document.get("settings"), document.get("names")
    if not isinstance(before, dict) or not isinstance(before_names, dict):
        raise ValueError(
            f"{stored} has no settings; remove it together with {path.name}"
        )
    for key in [*current, *(key for key in before if key not in current)]:
        if before.get(key) != current.get(key):
            raise UsageError(
                f"--out {path} was mined with {key}"
                f" {_shown(before.get(key), before_names.get(key))}; now it is"
                f" {_shown(current.get(key), names.get(key))}. Restore the value, or"
                " choose another --out"
            )


def _repair(path: Path) -> None:
    """Remove damaged lines, rows without an outcome, and outcomes without their row."""
    rows, outcomes = jsonl.read(path), jsonl.read(_outcomes(path))
    with_row = {row.get("id") for row in rows}
    complete = {
        outcome["id"]: outcome
        for outcome in outcomes
        if isinstance(outcome.get("id"), str)
        and (outcome.get("outcome") != USED or outcome["id"] in with_row)
    }
    used = {
        row["id"]: row
        for row in rows
        if complete.get(str(row.get("id")), {}).get("outcome") == USED
    }
    for file, entries in ((path, used), (_outcomes(path), complete)):
        text = "".join(_line(entry) for entry in entries.values())
        if file.exists() and file.read_bytes() != text.encode():
            atomic.write_text(file, text)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _settings(path: Path) -> Path:
    return path.with_name(path.name + ".settings.json")


def _outcomes(path: Path) -> Path:
    return path.with_name(path.name + ".outcomes.jsonl")


def _shown(value: Any, name: str | None) -> str:
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= 120 else text[:120] + "…"
    return text if name is None else f"{text} ({name})"
