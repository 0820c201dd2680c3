"""Entries of the catalogue: a data set, its published file layouts, its examples."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from targetsft_jax.data.boxed import last_boxed
from targetsft_jax.data.row_error import is_unicode

# Fields of every example; all are text, options a list of texts.
FIELDS = ("source", "id", "question", "options", "reasoning", "answer")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Example = dict[str, Any]
"""Mapping of FIELDS, built by `example`."""


@dataclass(frozen=True)
class FileLayout:
    """A file layout in which a data set is published."""

    splits: Mapping[str, Sequence[str]]
    """Path patterns of the files of each split, tried in order; also with `.gz`."""
    example: Callable[[Mapping[str, Any]], Example | None]
    """Converts a row to an example. None leaves the row out, which is counted; KeyError
    and ValueError make it a bad row."""


@dataclass(frozen=True)
class DataSet:
    """A data set: description, licence, place of publication and file layouts."""

    about: str
    """Description in one line."""
    licence: str
    """Licence stated by the publisher, or the place to look it up."""
    homepage: str
    hub: str
    """Id of its repository on the hub, in the first layout."""
    layouts: Sequence[FileLayout]
    """Layout on the hub, then any others."""
    version: str = "1.0.0"
    """Version of the examples; a data set of another version is rebuilt."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of all layouts."""
        names = (split for layout in self.layouts for split in layout.splits)
        return tuple(dict.fromkeys(names))


def example(
    question: str,
    answer: str,
    *,
    reasoning: str | None = None,
    options: Sequence[str] = (),
    source: str | None = None,
    id: object = None,
) -> Example:
    """Validate the fields of an example.

    Args:
        question: without its options.
        answer: the gold answer, the letter of an option if there are options; empty if
            the data set has none.
        reasoning: leads to the answer; may end in it.
        options: texts without their letters.
        source: origin of the question according to the data set.
        id: id in the data set; None: the builder numbers the rows.

    Raises:
        ValueError: no question; an option is empty; the answer is not the letter of an
            option; a field is not text, or has a character that UTF-8 lacks.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question is {question!r}; expected text")
    if isinstance(options, str) or len(options) > len(LETTERS):
        raise ValueError(
            f"the options are {options!r}; expected a list of up to {len(LETTERS)}"
        )
    for letter, option in zip(LETTERS, options):
        if not isinstance(option, str) or not option.strip():
            raise ValueError(f"option {letter} is {option!r}; expected text")
    texts = {"question": question, "answer": answer, "reasoning": reasoning or ""}
    texts |= {"source": source or "", "options": "".join(options)}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"the {name} is {text!r}; expected text")
        if not is_unicode(text):
            raise ValueError(f"the {name} has an unpaired surrogate: {text!r}")
    letters = LETTERS[: len(options)]
    if options and (len(answer) != 1 or answer not in letters):
        raise ValueError(
            f"the answer is {answer!r}; expected one of {', '.join(letters)}"
        )
    return {
        "source": source or "",
        "id": "" if id is None else plain_text(id),
        "question": question.strip(),
        "options": [option.strip() for option in options],
        "reasoning": (reasoning or "").strip(),
        "answer": answer.strip(),
    }


def plain_text(value: object) -> str:
    """Text of a text or a number.

    Raises:
        ValueError: neither, or a number that is not finite.
    """
    if isinstance(value, str) and is_unicode(value):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    raise ValueError(f"a field is {value!r}; expected text or a finite number")


def letter(index: object) -> str:
    """Letter of the option at an index from 0.

    Raises:
        ValueError: no such letter.
    """
    if type(index) is not int or not 0 <= index < len(LETTERS):
        raise ValueError(f"an option has index {index!r}; expected 0 or more")
    return LETTERS[index]


def boxed_answer(text: str) -> str:
    r"""Content of the last `\boxed{…}` or `\boxed 2` in a solution; "" if none."""
    boxed = last_boxed(text, unbraced=True)
    return boxed.content.strip() if boxed else ""
