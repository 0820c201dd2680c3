r"""Strict grader of multiple-choice answers: letters and texts of options.

The last box counts; else the last statement ("the answer is C", "Answer: C", "**C**");
else the one option whose text ends the completion. An answer is never guessed: letters
in prose, two letters at once and negated letters state none.
"""

import re
from collections.abc import Mapping

from targetsft_jax.evaluation.graders.grade import Grade, check_mode
from targetsft_jax.evaluation.graders.limits import readable_tail
from targetsft_jax.evaluation.graders.statements import find_boxes

_STATEMENT = re.compile(
    r"""(?:
      \b(?:answer|option|choice|diagnosis|response)\s*(?:\(s\))?\s*
        (?:(?:is|would\s+be|must\s+be|should\s+be|will\s+be)\b(?:\s+that\b)?\s*:?|:|=)
      | \bi\s+(?:choose|select|pick|would\s+choose|would\s+select)\b\s*:?
      | (?:^|\n)\s*\**\s*(?:final\s+)?answer\s*\**\s*:
      | \#\#\#\#(?!\#)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_FILLER = re.compile(
    r"[\s*_:$\"'“”`]*(?:(?:clearly|simply|therefore|thus|likely|most\s+likely|probably"
    r"|indeed|option|choice|letter|answer|\\text\s*\{|\\mathrm\s*\{|\\boxed\s*\{)"
    r"[\s*_:$]*)*",
    re.IGNORECASE,
)
_STATEMENTS = 50
"""Only the last ones are read."""
_NEGATION = re.compile(r"\s*(?:not|n't|neither|never)\b", re.IGNORECASE)
_EMPHASIZED = re.compile(r"\*\*\s*\(?([A-Za-z])\)?[.):]?\s*(?:[^*\n]{0,200})?\*\*")
_SENTENCE = re.compile(r"\n|(?<=[^A-Z])\.(?:\s|$)|[!?;](?:\s|$)")
_ARTICLE = frozenset("ai")
_MORE = re.compile(
    r"[\s)*.\]}]*(?:,|/|&|\bor\b|\band\b|\bor\s+maybe\b)\s*(?:possibly\s+|maybe\s+)?"
    r"(?:option\s+)?[(*\[]*([A-Za-z])(?![A-Za-z'])",
    re.IGNORECASE,
)


def grade_choice(
    output: str, gold_letter: str, options: Mapping[str, str], *, mode: str = "strict"
) -> Grade:
    """Grade the option that a completion chooses.

    Args:
        output: the completion.
        gold_letter: letter of the right option.
        options: letter -> text of every option.
        mode: `strict`; or `reference`, the rules of published tables, which guess.

    Raises:
        ValueError: no such mode; a gold answer that is not the letter of an option.
    """
    check_mode(mode)
    check_gold(gold_letter, options)
    if mode == "reference":
        from targetsft_jax.evaluation.graders import reference_choices

        return reference_choices.grade(output, gold_letter, options)
    letters, how = _chosen(readable_tail(output), options)
    if len(letters) > 1:
        return Grade(False, ", ".join(letters), "several answers")
    if not letters:
        return Grade(False, None, "no answer")
    return Grade(letters[0] == gold_letter, letters[0], how)


def check_gold(gold_letter: str, options: Mapping[str, str]) -> None:
    """Check that the gold answer is the letter of an option.

    Raises:
        ValueError: it is not.
    """
    if gold_letter not in options:
        letters = ", ".join(options)
        raise ValueError(
            f"the gold answer is {gold_letter!r}; expected the letter of an option,"
            + (f" one of {letters}" if letters else " but the problem has none")
        )


def _chosen(text: str, options: Mapping[str, str]) -> tuple[list[str], str]:
    """Letters of the chosen options, and the origin of the choice."""
    boxes, unclosed = find_boxes(text)
    if boxes and (unclosed is None or unclosed < boxes[-1].start):
        letters, _ = _read_choice(boxes[-1].content, options)
        if letters:
            return letters, "boxed"
    found = _last_statement(text, options)
    if found is not None:
        return found
    for match in reversed(list(_EMPHASIZED.finditer(text))):
        letter = _letter(match.group(1), options)
        if letter is not None:
            return [letter], "letter"
    alone = re.fullmatch(r"\W*([A-Za-z])\W*", text.strip())
    if alone is not None and _letter(alone.group(1), options):
        return [_letter(alone.group(1), options) or ""], "letter"
    opening = re.match(r"\s*\(?([A-Z])[).:]\s+(?=\S)", text)
    if opening is not None and _letter(opening.group(1), options) is not None:
        letter = opening.group(1)
        rest = text[opening.end() :].strip().rstrip(".")
        if _words(rest) == _words(options[letter]):
            return [letter], "letter"
    return _option_text(text, options), "option text"


def _last_statement(
    text: str, options: Mapping[str, str]
) -> tuple[list[str], str] | None:
    for match in reversed(list(_STATEMENT.finditer(text))[-_STATEMENTS:]):
        rest = text[match.end() : match.end() + 600]
        rest = rest[_FILLER.match(rest).end() :]  # type: ignore[union-attr]
        if _NEGATION.match(rest):
            continue
        before = text[max(0, match.start() - 12) : match.start()]
        if re.search(r"\b(?:wrong|incorrect|not\s+the)\s*$", before, re.IGNORECASE):
            continue
        letters, how = _read_choice(rest, options)
        if letters:
            return letters, "statement" if how == "letter" else how
    return None


def _read_choice(content: str, options: Mapping[str, str]) -> tuple[list[str], str]:
    """Letters that a box or the rest of a statement begins with, or the option text."""
    content = re.sub(r"\\(?:text|mathrm|mathbf|textbf|textit|rm)\s*", "", content)
    content = content.strip().lstrip("{$(*[ \"'").replace(r"\ ", " ")
    exact = _by_text(content, options)
    match = re.match(
        r"(?:option|choice)?\s*[({\[]*([A-Za-z])(?![A-Za-z0-9'’])", content, re.I
    )
    if match is None:
        return exact or _beginning_text(content, options), "option text"
    letter = _letter(match.group(1), options)
    if letter is None:
        return exact or _beginning_text(content, options), "option text"
    rest = content[match.end() :]
    if match.group(1).lower() in _ARTICLE and re.match(r" [a-z]", rest):
        following = re.match(r" (?:because|since|as|due|which|not|and|or|is)\b", rest)
        if match.group(1).islower() or following is None:
            return exact or _beginning_text(content, options), "option text"
    letters = [letter]
    more = _MORE.match(rest)
    while more is not None:
        other = _letter(more.group(1), options)
        if other is None or (
            more.group(1).lower() == "a" and re.match(r" [a-z]", rest[more.end() :])
        ):
            break
        if other not in letters:
            letters.append(other)
        rest = rest[more.end() :]
        more = _MORE.match(rest)
    return letters, "letter"


def _letter(character: str, options: Mapping[str, str]) -> str | None:
    if character in options:
        return character
    return character.upper() if character.upper() in options else None


def _words(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm)|[${}\\*]", " ", text)
    return " ".join(re.sub(r"[^\w%+\-/.,<>=]", " ", text.casefold()).split()).strip(
        " .,"
    )


def _by_text(content: str, options: Mapping[str, str]) -> list[str]:
    """The option with exactly this text; an option's text may be another's letter."""
    words = _words(content)
    found = [k for k, v in options.items() if words and _words(v) == words]
    return found if len(found) == 1 and len(words) > 1 else []


def _beginning_text(content: str, options: Mapping[str, str]) -> list[str]:
    """The longest option text that the content begins with, in one sentence."""
    end = _SENTENCE.search(content)
    words = _words(content[: end.start()] if end else content)
    for article in ("the ", "an ", "a "):
        words = words.removeprefix(article)
    found = [
        k
        for k, v in options.items()
        if _words(v) and re.match(re.escape(_words(v)) + r"(?!\w)", words)
    ]
    longest = max((len(_words(options[k])) for k in found), default=0)
    return [k for k in found if len(_words(options[k])) == longest]


def _option_text(text: str, options: Mapping[str, str]) -> list[str]:
    """The option whose text is the last in the last sentence, if one is."""
    sentences = [s for s in _SENTENCE.split(text[-2000:].strip()) if s and s.strip()]
    if not sentences:
        return []
    words = _words(sentences[-1])
    places: dict[str, tuple[int, int]] = {}
    for letter, option in options.items():
        name = _words(option)
        if len(name) < 2:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", words):
            if not re.search(
                r"\b(?:not|no|never|unlikely|excludes?|without)(?: an?| the)?\s*$",
                words[: match.start()],
            ):
                places[letter] = (match.end(), len(name))
    if not places:
        return []
    last = max(places.values())
    tail = words[last[0] :]
    if re.match(
        r"\s+(?:is|was|are|were)\s+(?:not|unlikely|wrong|incorrect|excluded|ruled)",
        tail,
    ):
        return []
    return [letter for letter, place in places.items() if place == last]
