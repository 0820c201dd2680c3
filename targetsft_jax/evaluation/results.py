"""RUN/results.json: scores, exported step and completion of a run."""

import dataclasses
import json
import math
from typing import Any

from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic, manifest
from targetsft_jax.storage.run_dir import RunDir

_EMPTY: dict[str, Any] = {"finished": False, "export": None}


class Results:
    """Finished evaluations and export of a run, which a resumed run does not repeat.

    Args:
        run_dir: the run's directory; a missing or unreadable file counts as empty.
        shared: take the results that the primary process reads, since the directory
            may be on its machine alone; all processes must call it.
    """

    def __init__(self, run_dir: RunDir, *, shared: bool = False):
        self._run_dir = run_dir
        self._tree = _read(run_dir)
        if shared:
            self._tree = json.loads(processes.from_primary(json.dumps(self._tree)))

    def score(self, name: str, key: str) -> AverageAtK | None:
        """Score of a model; None if it was not evaluated under this key.

        Args:
            name: the model's name in tables: "teacher", "start" or the method.
            key: digest of all inputs of the evaluation.
        """
        entry = self._tree["scores"].get(name)
        if entry is None or entry.get("key") != key:
            return None
        try:
            score = AverageAtK(**entry["score"])
            finite = all(math.isfinite(value) for value in vars(score).values())
        except (KeyError, TypeError, OverflowError):
            return None
        return score if finite else None

    def key(self, name: str) -> str | None:
        """Digest of all inputs of a model's evaluation; None if there is none."""
        entry = self._tree["scores"].get(name)
        return None if entry is None else entry.get("key")

    def scores(self) -> dict[str, AverageAtK]:
        """All scores that can be read, by name."""
        entries = self._tree["scores"].items()
        scores = {name: self.score(name, entry.get("key")) for name, entry in entries}
        return {name: score for name, score in scores.items() if score is not None}

    def add_score(self, name: str, key: str, score: AverageAtK) -> None:
        """Record a score; the primary process writes the file."""
        entry = {"key": key, "score": dataclasses.asdict(score)}
        self._tree["scores"][name] = entry
        self._write()

    def is_exported(self, step: int, fingerprint: str) -> bool:
        """True if the run directory has the complete export of a training.

        Args:
            step: last optimizer step of the training.
            fingerprint: SHA-256 of the training rows.
        """
        export = {"step": step, "fingerprint": fingerprint}
        return self._tree["export"] == export and self._exports_are_intact()

    def set_exported(self, step: int, fingerprint: str) -> None:
        """Record a complete export."""
        self._tree["export"] = {"step": step, "fingerprint": fingerprint}
        self._write()

    @property
    def finished(self) -> bool:
        """True if the run is complete: trained, exported and evaluated."""
        complete = len(self.scores()) == len(self._tree["scores"])
        finished = self._tree["finished"] is True and complete
        return finished and self._exports_are_intact()

    def set_finished(self, finished: bool) -> None:
        """Record that the run is complete, or under way."""
        self._tree["finished"] = finished
        self._write()

    def _exports_are_intact(self) -> bool:
        """True if the files of hf/, and of adapter/ with adapters, are as written."""
        folders = [self._run_dir.export]
        if self._run_dir.adapters.exists():
            folders.append(self._run_dir.adapter_export)
        return not any(manifest.differences(f, added=False) for f in folders)

    def _write(self) -> None:
        if processes.is_primary():
            text = json.dumps(self._tree, indent=2) + "\n"
            atomic.write_text(self._run_dir.results, text)


def _read(run_dir: RunDir) -> dict[str, Any]:
    tree: dict[str, Any] = dict(_EMPTY, scores={})
    try:
        stored = json.loads(run_dir.results.read_text(encoding="utf-8"))
        if isinstance(stored["scores"], dict):
            tree["scores"] = {k: dict(v) for k, v in stored["scores"].items()}
        tree["export"] = stored.get("export")
        tree["finished"] = stored.get("finished", False)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return dict(_EMPTY, scores={})
    return tree
