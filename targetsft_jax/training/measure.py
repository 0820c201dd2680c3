"""Measure Average@k of the models of a run, each once over all sessions."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from targetsft_jax.evaluation.evaluate import evaluate_model
from targetsft_jax.evaluation.label_probe import LabelProbe, probe_labels
from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic, json_file
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.sinks import record_scores
from targetsft_jax.training.session import Session
from targetsft_jax.training.state import Params
from targetsft_jax.training.step_spec import compute_dtype

_FREE = ("data", "include_teacher", "label_probe")
"""Keys of the section that do not change a score."""


class Measurements:
    """Scores of a run's models; a no-op for a run without problems.

    Args:
        session: models, problems and sampling settings.
        run_dir: directory of results.json and the completions.

    Attributes:
        scores: model name -> score, as measured so far.
        results: results.json, with the scores of earlier sessions.
    """

    def __init__(self, session: Session, run_dir: RunDir):
        self._session, self._run_dir = session, run_dir
        self.results = Results(run_dir, shared=True)
        self.scores: dict[str, AverageAtK] = {}
        self._has_new = False

    def measure_frozen(self, name: str, role: str) -> None:
        """Measure the model of a role before training."""
        session = self._session
        if not session.problems:
            return
        part = session.roles[role]

        def load() -> Params:
            if role == "student":
                return session.student_at_start()
            return session.frozen_parameters(role)

        self.measure(name, f"{part.model.source} as {part.precision}", load, role)

    def recall(self, name: str, model: str) -> bool:
        """Look up the score of a model; returns False if it must be measured."""
        if not self._session.problems:
            return True
        key = self._key(model)
        shared = self._session.shared
        score = self.results.score(name, key)
        # A score of another run counts if its label probe is on the same data.
        if score is None and self._has_shared_probe(key):
            score = shared.scores.get(key)
        if score is None:
            return False
        self._add(name, key, score, shared.label_probes.get(self._probe_key(key)))
        return True

    def measure(
        self, name: str, model: str, load: Callable[[], Params], role: str = "student"
    ) -> None:
        """Measure a model, unless its score is stored or shared by another run.

        Args:
            name: name in tables and file names.
            model: identity of the parameters.
            load: returns the parameters; called only for a measurement.
            role: role with the same architecture.
        """
        if self.recall(name, model):
            return
        session, evaluation = self._session, self._session.config.evaluation
        params = load()
        score, graded = evaluate_model(
            session.roles[role].model.config,
            params,
            session.problems,
            session.evaluation_tokenizer,
            evaluation,
            seed=session.config.seed,
            dtype=compute_dtype(session.config, session.mesh),
            row_sharding=meshes.rows_over(session.mesh),
            grader=evaluation.grader,
        )
        if processes.is_primary():
            path = self._run_dir.completions(name)
            with path.open("w", encoding="utf-8") as file:
                for problem in graded:
                    file.write(json.dumps(problem.row(), ensure_ascii=False) + "\n")
        key = self._key(model)
        probe = self._probe(params) if role == "student" else None
        if not model.startswith("trained"):
            session.shared.scores[key] = score
            session.shared.label_probes[self._probe_key(key)] = probe
        self._add(name, key, score, probe)
        percent = 100 * score.average_at_k
        print(f"  Average@{evaluation.samples} of {name}: {percent:.1f}")

    def record(self, steps: int) -> None:
        """Record new scores in TensorBoard and W&B, in percent.

        Args:
            steps: last optimizer step of the run.
        """
        if not (self._has_new and processes.is_primary()):
            return
        values = {
            f"eval/{measure}/{name}": 100 * getattr(score, measure)
            for name, score in self.scores.items()
            for measure in ("average_at_k", "pass_at_k", "no_answer", "truncated")
        }
        config = self._session.config
        about = dataclasses.asdict(config)
        record_scores(config.log, self._run_dir, steps, values, about)

    def _probe(self, params: Params) -> LabelProbe | None:
        """Measure the student on the labels of training examples, if configured."""
        session = self._session
        if session.probe is None:
            return None
        return probe_labels(
            session.roles["student"].model.config,
            params,
            session.probe,
            vocab_size=len(session.tokenizer),
            dtype=compute_dtype(session.config, session.mesh),
        )

    def _has_shared_probe(self, key: str) -> bool:
        """True if no probe is configured, or another run measured it."""
        session = self._session
        probe_key = self._probe_key(key)
        return session.probe is None or probe_key in session.shared.label_probes

    def _probe_key(self, key: str) -> str:
        """Return the key of a label probe, which depends on the training data too."""
        return f"{key} {self._session.config.data}"

    def _add(
        self, name: str, key: str, score: AverageAtK, probe: LabelProbe | None
    ) -> None:
        self.scores[name] = score
        if probe is not None and processes.is_primary():
            path = self._run_dir.label_probe
            probes = _read_probes(path)
            text = json.dumps(probes | {name: probe}, indent=2) + "\n"
            atomic.write_text(path, text)
        if self.results.score(name, key) != score:
            self.results.add_score(name, key, score)
            self._has_new = True

    def _key(self, model: str) -> str:
        """Return a digest of parameters' identity, problems and sampling."""
        session = self._session
        config = session.config
        settings = dataclasses.asdict(config.evaluation)
        parts = [
            model,
            {k: v for k, v in settings.items() if k not in _FREE},
            config.seed,
            str(compute_dtype(config, session.mesh)),
            session.evaluation_tokenizer.get_chat_template(),
            [[problem.messages, problem.answer] for problem in session.problems],
        ]
        return json_digest(parts)


def _read_probes(path: Path) -> dict[str, LabelProbe]:
    """Label probes of other models of the run; empty if they cannot be read."""
    try:
        return json_file.read_object(path)
    except (OSError, ValueError):
        return {}
