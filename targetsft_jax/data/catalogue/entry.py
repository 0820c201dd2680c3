"""What an entry of the catalogue says of a data set, and what all its examples have."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Of every example; all are text, options a list of texts.
FIELDS = ("source", "id", "question", "options", "reasoning", "answer")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

Example = dict[str, Any]
"""FIELDS, as `example` makes it."""


@dataclass(frozen=True)
class Layout:
    """One of the shapes in which a data set is published."""

    splits: Mapping[str, Sequence[str]]
    """By split, patterns of its files' paths, tried in order; also with `.gz`."""
    example: Callable[[Mapping[str, Any]], Example | None]
    """A row as an example. None leaves it out, which is counted. KeyError and
    ValueError make it a bad row."""


@dataclass(frozen=True)
class DataSet:
    """A data set: what it is, whose, where, and how its rows become examples."""

    about: str
    licence: str
    """As its publisher states it, and where that is not known, where to look."""
    homepage: str
    hub: str
    """Id of the data set's repository on the hub, in its first layout."""
    layouts: Sequence[Layout]
    """The hub's before others."""
    version: str = "1.0.0"
    """Of the examples; another one is built anew."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of all its splits."""
        return tuple(dict.fromkeys(s for own in self.layouts for s in own.splits))


def example(
    question: str,
    answer: str,
    *,
    reasoning: str | None = None,
    options: Sequence[str] = (),
    source: str | None = None,
    id: object = None,
) -> Example:
    """An example, checked.

    Args:
        question: without its options.
        answer: the gold answer, the letter of an option where there are options;
            empty where the data set has none.
        reasoning: what leads to the answer; may end in it.
        options: texts without their letters.
        source: where the data set has it from.
        id: the data set's own; without one the builder numbers the rows.

    Raises:
        ValueError: no question; an option is empty; the answer is no option's letter.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question is {question!r}; expected text")
    for letter, option in zip(LETTERS, options):
        if not isinstance(option, str) or not option.strip():
            raise ValueError(f"option {letter} is {option!r}; expected text")
    letters = LETTERS[: len(options)]
    if options and (len(answer) != 1 or answer not in letters):
        raise ValueError(
            f"the answer is {answer!r}; expected one of {', '.join(letters)}"
        )
    return {
        "source": source or "",
        "id": "" if id is None else str(id),
        "question": question.strip(),
        "options": [option.strip() for option in options],
        "reasoning": (reasoning or "").strip(),
        "answer": answer.strip(),
    }


def letter(index: object) -> str:
    """The letter of the option at an index from 0.

    Raises:
        ValueError: no such letter.
    """
    if not isinstance(index, int) or not 0 <= index < len(LETTERS):
        raise ValueError(f"an option has index {index!r}; expected 0 or more")
    return LETTERS[index]


def last_boxed(text: str) -> str:
    r"""What the last `\boxed{…}` or `\boxed 2` of a solution holds; "" without one."""
    start = text.rfind("\\boxed")
    while start >= 0:
        inside = text[start + len("\\boxed") :]
        if inside.startswith(" ") and inside.split():
            return inside.split()[0].rstrip(".,$")
        if inside.startswith("{"):
            depth = 0
            for found in _BRACE.finditer(inside):
                depth += {"{": 1, "}": -1}.get(found.group(), 0)
                if depth == 0:
                    return inside[1 : found.start()].strip()
        start = text.rfind("\\boxed", 0, start)
    return ""
