"""Mine critical tokens: examine the problems that have no outcome yet, and report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from targetsft_jax.command import Stopped
from targetsft_jax.config.schema import Config
from targetsft_jax.data.records import Problem
from targetsft_jax.mining.answers import conversation, greedy_answers
from targetsft_jax.mining.criticality import Answer, critical_masks
from targetsft_jax.mining.mined_file import USED, MinedFile, open_mined
from targetsft_jax.mining.report import Progress, summary
from targetsft_jax.mining.session import Session, open_session, problem_digest
from targetsft_jax.mining.settings import MiningSettings
from targetsft_jax.parallel.preemption import RaisedSignals
from targetsft_jax.storage.user_path import user_path


def mine(config: Config, model: str, out: Path, settings: MiningSettings) -> None:
    """Mine the critical tokens of a model's own correct answers into a data set.

    Args:
        config: `data`, `mesh`, `student.dtype` and `train.dtype` are read.
        model: path or hub id.
        out: JSONL file to write or to continue.
        settings: settings of the mining.

    Raises:
        UsageError, ValueError, OSError: a key, model, problem or file cannot be used;
            no problem has a correct answer.
        Stopped: on SIGTERM or Ctrl-C; finished rows are kept.
    """
    settings.check()
    with RaisedSignals():
        try:
            session = open_session(config, model, settings)
            out = user_path(out)
            names = {"model": str(session.source)}
            with open_mined(out, session.identity, names) as file:
                examine(session, settings, file)
                lines = summary(session, file)
        except Stopped as stop:
            raise stop.with_details(
                f"the rows in {out} are kept, and the same command continues"
            ) from None
    print("\n".join(lines))
    if not any(line["outcome"] == USED for line in file.outcomes.values()):
        raise ValueError(
            f"{out} has no row: no greedy answer of {model} could be used; expected a"
            " model that solves some of the problems, see the reasons above"
        )


def examine(session: Session, settings: MiningSettings, file: MinedFile) -> None:
    """Examine all problems without an outcome, and append outcomes and rows.

    Answers are generated for `batch_size` problems at a time, masks for as many of them
    as have `batch_size` tokens. These groups do not depend on the problems that are
    done already: a continuation gives the rows of an uninterrupted mining.

    Raises:
        ValueError: a problem has changed since it was examined.
    """
    _check_unchanged(session.problems, file)
    progress = Progress(session.problems, file)
    for first in range(0, len(session.problems), settings.batch_size):
        part = slice(first, first + settings.batch_size)
        problems = session.problems[part]
        if all(problem.id in file.outcomes for problem in problems):
            continue
        answers = greedy_answers(
            session.sampler,
            session.tokenizer,
            problems,
            session.prompts[part],
            settings,
            session.positions,
        )
        for members in _groups(answers, settings.batch_size):
            group = [(problems[number], answers[number]) for number in members]
            if all(problem.id in file.outcomes for problem, _ in group):
                continue
            for outcome, row in _results(session, group, settings):
                if outcome["id"] not in file.outcomes:
                    file.add(outcome, row)
            progress.show(file)


def _results(
    session: Session,
    group: Sequence[tuple[Problem, Answer | str]],
    settings: MiningSettings,
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Outcome and row of each problem of a group."""
    answers = [answer for _, answer in group if isinstance(answer, Answer)]
    masks = iter(critical_masks(session.sampler, answers, settings))
    for problem, answer in group:
        outcome = {"id": problem.id, "problem": problem_digest(problem)}
        if not isinstance(answer, Answer):
            yield outcome | {"outcome": answer}, None
            continue
        mask = next(masks)
        counts = {"tokens": len(mask), "critical": sum(mask)}
        yield (
            outcome | {"outcome": USED} | counts,
            {
                "messages": conversation(problem, answer.text),
                "answer": problem.answer,
                "id": problem.id,
                "critical_mask": mask,
            },
        )


def _groups(answers: Sequence[Answer | str], tokens: int) -> Iterator[list[int]]:
    """Numbers of consecutive answers that have together so many tokens."""
    group, size = [], 0
    for number, answer in enumerate(answers):
        group.append(number)
        size += len(answer.tokens) if isinstance(answer, Answer) else 0
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


def _check_unchanged(problems: Sequence[Problem], file: MinedFile) -> None:
    for problem in problems:
        outcome = file.outcomes.get(problem.id)
        if outcome is not None and outcome.get("problem") != problem_digest(problem):
            raise ValueError(
                f"{problem.id} has another prompt or gold answer than when {file.path}"
                " was mined; restore the data, or choose another --out"
            )
