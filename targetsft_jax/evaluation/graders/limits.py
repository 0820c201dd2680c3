r"""Limits on the size of completions and answers, checked before any parser.

A parser of LaTeX takes time that grows fast with nesting, and exact arithmetic on
`9**9**9` never ends. Answers of people and models are far below these limits.
"""

import re

OUTPUT_CHARACTERS = 1_000_000
"""Only so many characters are read, those at the end of a completion."""
ANSWER_CHARACTERS = 2_000
NESTING = 32
COMMANDS = 200
DIGITS = 400
"""Length of a run of digits."""
ITEMS = 200
"""Elements of a list, and rows and columns of a matrix."""
BITS = 50_000
"""Size of an exact integer: 2^2018 and 2018! are below it, 9^(9^9) is not."""

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_RUN = re.compile(r"[0-9]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def readable_tail(output: str) -> str:
    """The end of a completion, without control characters."""
    return _CONTROL.sub("", output[-OUTPUT_CHARACTERS:])


def is_too_long(answer: str) -> bool:
    """True if an answer is beyond a limit on characters, commands, digits or nesting.

    It takes time linear in the length of the answer.
    """
    return (
        len(answer) > ANSWER_CHARACTERS
        or len(_COMMAND.findall(answer)) > COMMANDS
        or any(len(run) > DIGITS for run in _RUN.findall(answer))
        or _nesting(answer) > NESTING
    )


def _nesting(answer: str) -> int:
    """Depth of brackets of all kinds, and of superscripts and roots without them."""
    depth = deepest = 0
    for character in answer:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth = max(0, depth - 1)
    return max(deepest, answer.count("^^"))
