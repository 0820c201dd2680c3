"""Verdict on one completion: correct or not, the extracted answer, and its origin."""

from dataclasses import dataclass

HOW = (
    "boxed",
    "marker",
    "statement",
    "letter",
    "option text",
    "last number",
    "guess",
    "log-likelihood",
    "no answer",
    "several answers",
    "unparsed",
    "too long",
    "timeout",
    "error",
)
"""Values of `Grade.how`."""

UNANSWERED = frozenset(("no answer", "several answers"))
"""Values of `Grade.how` of a completion that states not exactly one answer."""

MODES = ("strict", "reference")


@dataclass(frozen=True)
class Grade:
    r"""Verdict on a completion.

    Attributes:
        correct: the answer equals the gold answer.
        extracted: the stated answer; None if there is none.
        how: origin of the answer, or the reason why it could not be compared.

            - `boxed`: a `\boxed{…}`; `marker`: the rest of a line after `####`;
              `statement`: "the answer is …".
            - `letter`: an option by its letter alone; `option text`: by its text.
            - `last number`, `guess`: fall-backs of the reference mode only.
            - `log-likelihood`: the most probable option; there is no completion.
            - `no answer`, `several answers`: states none, or more than one.
            - `unparsed`: an incomplete expression; `too long`: beyond
              the limits on size.
            - `timeout`, `error`: the grading was stopped or failed.
    """

    correct: bool
    extracted: str | None
    how: str


def check_mode(mode: str) -> None:
    """Raise ValueError unless there is such a mode."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
