"""Find duplicate records, and records that share text with evaluation problems."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.record import Record
from targetsft_jax.data.records import Problem, load_records
from targetsft_jax.data.tool_calls import call_text

# Consecutive words that two texts must share to overlap.
WORDS = 30

# Number of cases whose ids are listed; all are counted.
SHOWN = 5

_SPACE = re.compile(r"\s+")


@dataclass
class Cases:
    """Count of cases, with the ids of the first few."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)
    """(id of the record, id of its duplicate or of the problem)."""

    def add(self, id: str, other: str) -> None:
        """Count another case."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((id, other))


class Duplicates:
    """Detects records that repeat an earlier one, by two hashes per record.

    Attributes:
        conversations: records that equal an earlier one in all turns.
        prompts: records that share the prompt of an earlier one, but not the response.
    """

    def __init__(self) -> None:
        self.conversations, self.prompts = Cases(), Cases()
        self._by_conversation: dict[int, str] = {}
        self._by_prompt: dict[int, str] = {}

    def add(self, record: Record) -> None:
        """Compare the next record with the earlier ones, up to case and white space."""
        turns = [
            (m["role"], normalise(m["content"]), call_text(m.get("tool_calls")))
            for m in record.messages
        ]
        conversation, prompt = hash(tuple(turns)), hash(tuple(turns[:-1]))
        id = record.id or record.origin
        if conversation in self._by_conversation:
            self.conversations.add(id, self._by_conversation[conversation])
        elif prompt in self._by_prompt and not record.is_text:
            self.prompts.add(id, self._by_prompt[prompt])
        self._by_conversation.setdefault(conversation, id)
        self._by_prompt.setdefault(prompt, id)


class Overlap:
    """Detects records that overlap with evaluation problems; indexes the problems only.

    Attributes:
        exact: records with a user turn that equals the question of a problem, up to
            case and white space.
        shared: other records with a user turn that shares WORDS consecutive words with
            a question.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.exact, self.shared = Cases(), Cases()
        self._questions: dict[str, str] = {}
        self._runs: dict[int, str] = {}
        for problem in problems:
            for text in _texts(problem):
                self._questions.setdefault(normalise(text), problem.id)
            for run in _runs(normalise(_texts(problem)[0])):
                self._runs.setdefault(run, problem.id)

    def add(self, record: Record) -> None:
        """Compare the next record with the problems."""
        prompts = [
            normalise(message["content"])
            for message in record.messages
            if message["role"] == "user"
        ]
        id = record.id or record.origin
        same = (self._questions[text] for text in prompts if text in self._questions)
        runs = (run for text in prompts for run in _runs(text))
        shared = (self._runs[run] for run in runs if run in self._runs)
        if (other := next(same, None)) is not None:
            self.exact.add(id, other)
        elif (other := next(shared, None)) is not None:
            self.shared.add(id, other)


def training_overlaps(
    config: DataConfig, problem_sets: Iterable[Iterable[Problem]]
) -> list[Overlap]:
    """Compare the training data of a run with sets of evaluation problems, in one pass.

    Args:
        config: the run's data section.
        problem_sets: the problems of each benchmark.

    Returns:
        For each set, the counts of training records that repeat or share text with a
        question.

    Raises:
        ValueError: the data cannot be read.
    """
    overlaps = [Overlap(problems) for problems in problem_sets]
    for record in load_records(config)[0]:
        for overlap in overlaps:
            overlap.add(record)
    return overlaps


def normalise(text: str) -> str:
    """Normalize case, character width (NFKC) and white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACE.sub(" ", folded).strip()


def _texts(problem: Problem) -> list[str]:
    """Forms of a question in training data: bare, with its options, as prompted."""
    turn = problem.messages[-1]["content"]
    if not problem.question:
        return [turn]
    options = [f"{letter}. {text}" for letter, text in problem.options.items()]
    return [problem.question, "\n".join([problem.question, *options]), turn]


def _runs(text: str) -> Iterator[int]:
    words = text.split(" ")
    for start in range(len(words) - WORDS + 1):
        yield hash(" ".join(words[start : start + WORDS]))
