r"""Find the answers that a completion states: boxes, `####`, "the answer is …".

The last box counts. Boxes that follow each other closely ("$\boxed{1}$ and
$\boxed{2}$") state one answer of several parts. A number at the end of a text does
not count.
"""

import re
from dataclasses import dataclass

from targetsft_jax.data.boxed import closing_braces

_BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])|\\boxed(?=\d)")
_MARK = re.compile(r"^[ \t]*####(?!#)[ \t]*(?P<rest>[^\n]*)", re.MULTILINE)
_PHRASE = re.compile(
    r"""(?:
      \b(?:final|correct|right|required|desired)?\s*answer\s*
        (?:\(s\)|s)?\s*(?:to\s+(?:the|this)\s+(?:problem|question)\s*)?
        (?:(?:is|are|will\s+be|would\s+be|must\s+be|should\s+be|equals)\b(?:\s+that)?
           \s*:?|\s*:|\s*=)
      | \bfinal\s+(?:result|value)\s*(?:is\b\s*:?|:)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_EMPHASIS = re.compile(r"\*\*|__(?=\S)|(?<=\S)__")
_END = re.compile(
    r"\n|\.(?=\s|$|\*)|[!?](?=\s|$)|\s(?:I hope it is correct|because|since|so that"
    r"|which|where|but)\b",
    re.IGNORECASE,
)
_MATH = re.compile(
    r"\s*(?P<open>\$\$|\$|\\\(|\\\[)(?P<math>.+?)(?P<close>\$\$|(?<!\\)\$|\\\)|\\\])",
    re.DOTALL,
)
_JOINT = re.compile(
    r"^[\s$.]*(?:,|;|and|or|\\text\s*\{\s*(?:and|or)\s*\}|\\quad|\\,)?[\s$,]*"
    r"(?:and|or)?[\s$]*$",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:not|isn't|isn’t|cannot|never|no longer)\W*$", re.I)


@dataclass(frozen=True)
class Statement:
    """A stated answer.

    Attributes:
        answers: its parts; usually one.
        how: origin, as in `Grade.how`.
        joined: the parts are alternatives in one answer ("1 and 2").
    """

    answers: tuple[str, ...]
    how: str


def find_statement(text: str) -> Statement | None:
    """Find the answer that a completion states last; None if there is none.

    A box takes precedence over a phrase before or after it, unless the phrase after it
    states a box or a formula of its own.
    """
    boxes, unclosed = find_boxes(text)
    last = boxes[-1] if boxes else None
    if unclosed is not None and (last is None or unclosed > last.end):
        # A truncated completion: what stands in the box is not complete.
        return None
    mark = _last_mark(text)
    if mark is not None and (last is None or mark[0] > last.start):
        return Statement((mark[1],), "marker")
    if last is not None:
        return Statement(_joint_boxes(text, boxes), "boxed")
    phrase = _last_phrase(text)
    return None if phrase is None else Statement((phrase,), "statement")


@dataclass(frozen=True)
class Box:
    """A box in a text: its content, and the indices of its first and last character."""

    content: str
    start: int
    end: int


def find_boxes(text: str) -> tuple[list[Box], int | None]:
    r"""Find the outermost `\boxed{…}` and `\fbox{…}` of a text, in order.

    Returns:
        boxes: those with balanced braces.
        unclosed: index of the last box without a closing brace; None if there is none.
    """
    boxes: list[Box] = []
    unclosed = None
    if "box" not in text:
        return boxes, unclosed
    ends = closing_braces(text)
    position = 0
    for match in _BOX.finditer(text):
        if match.start() < position:
            continue
        opening = match.end()
        if text[opening] == "{":
            if opening not in ends:
                unclosed = match.start()
                continue
            content, end = text[opening + 1 : ends[opening]], ends[opening]
        else:
            word = re.match(r"[^\s$]+", text[opening:])
            assert word is not None
            content, end = word.group().rstrip(".,;"), opening + word.end() - 1
        boxes.append(Box(unboxed(content.strip()), match.start(), end))
        position = end
    return boxes, unclosed


def unboxed(content: str) -> str:
    r"""The content of the innermost of nested boxes, `\boxed{\boxed{x}}`."""
    for _ in range(5):
        match = re.fullmatch(
            r"\$?\s*\\f?box(?:ed)?\s*\{(.*)\}\s*\$?", content, re.DOTALL
        )
        if match is None:
            break
        content = match.group(1).strip()
    return content


def _joint_boxes(text: str, boxes: list[Box]) -> tuple[str, ...]:
    """Contents of the last boxes, back to the first that text separates from it."""
    joint = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end + 1 : joint[0].start]
        if len(between) > 40 or not _JOINT.match(between):
            break
        joint.insert(0, box)
    contents = tuple(box.content for box in joint)
    return contents[-1:] if len(set(contents)) == 1 else contents


def _last_mark(text: str) -> tuple[int, str] | None:
    for match in reversed(list(_MARK.finditer(text))):
        rest = match.group("rest").strip()
        if rest:
            return match.start(), rest
    return None


def _last_phrase(text: str) -> str | None:
    """The rest of the sentence after the last phrase that states an answer."""
    for match in reversed(list(_PHRASE.finditer(text))):
        rest = text[match.end() : match.end() + 400].lstrip(" \t*_:\n")
        math = _MATH.match(rest)
        if math is not None:
            after = rest[math.end() :]
            more = re.match(r"\s*(?:,|and|or)\s*\$", after)
            answer = math.group("math") if more is None else _sentence(rest)
        else:
            answer = _sentence(rest)
        if answer and not answer.lower().startswith(("not ", "n't")):
            return answer
    return None


def _sentence(rest: str) -> str:
    end = _END.search(rest)
    answer = rest[: end.start()] if end else rest
    return _EMPHASIS.sub("", answer).strip().rstrip(".,;:!").strip()
