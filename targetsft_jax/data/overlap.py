"""Records that repeat one another, and those that share text with what is measured."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from targetsft_jax.data.record import Record
from targetsft_jax.data.records import Problem

# Words in a row that two texts have in common before that is called an overlap.
WORDS = 30

# Cases are all counted; of this many the ids are kept.
SHOWN = 5

_SPACE = re.compile(r"\s+")


@dataclass
class Cases:
    """How many cases there are, and the ids of the first few."""

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)
    """The record's id, and that of what it repeats or shares text with."""

    def add(self, own: str, other: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append((own, other))


class Duplicates:
    """Finds records that repeat an earlier one; remembers two numbers of each.

    Attributes:
        conversations: records whose turns are all those of an earlier one.
        prompts: others that ask what an earlier one asks, and answer otherwise.
    """

    def __init__(self) -> None:
        self.conversations, self.prompts = Cases(), Cases()
        self._whole: dict[int, str] = {}
        self._asked: dict[int, str] = {}

    def add(self, record: Record) -> None:
        """Takes the next record. Texts are compared without case and white space."""
        turns = [(m["role"], normalised(m["content"])) for m in record.messages]
        whole, asked = hash(tuple(turns)), hash(tuple(turns[:-1]))
        own = record.id or record.origin
        if whole in self._whole:
            self.conversations.add(own, self._whole[whole])
        elif asked in self._asked:
            self.prompts.add(own, self._asked[asked])
        self._whole.setdefault(whole, own)
        self._asked.setdefault(asked, own)


class Overlap:
    """Finds records that ask what is measured; remembers the problems' text alone.

    Attributes:
        exact: records with a user turn that is the question of a problem, without
            case and white space.
        shared: others with a user turn that has WORDS words in a row in common with
            a question.
    """

    def __init__(self, problems: Iterable[Problem]):
        self.exact, self.shared = Cases(), Cases()
        self._questions: dict[str, str] = {}
        self._runs: dict[int, str] = {}
        for problem in problems:
            question = normalised(problem.messages[-1]["content"])
            self._questions.setdefault(question, problem.id)
            for run in _runs(question):
                self._runs.setdefault(run, problem.id)

    def add(self, record: Record) -> None:
        """Takes the next record."""
        asked = [
            normalised(message["content"])
            for message in record.messages
            if message["role"] == "user"
        ]
        own = record.id or record.origin
        same = (self._questions[text] for text in asked if text in self._questions)
        runs = (run for text in asked for run in _runs(text))
        shared = (self._runs[run] for run in runs if run in self._runs)
        if (other := next(same, None)) is not None:
            self.exact.add(own, other)
        elif (other := next(shared, None)) is not None:
            self.shared.add(own, other)


def normalised(text: str) -> str:
    """A text without what differs between copies: case, width of letters and space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACE.sub(" ", folded).strip()


def _runs(text: str) -> Iterator[int]:
    words = text.split(" ")
    for start in range(len(words) - WORDS + 1):
        yield hash(" ".join(words[start : start + WORDS]))
