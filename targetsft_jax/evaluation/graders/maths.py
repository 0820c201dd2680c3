r"""Strict grader of mathematical answers: math-verify's parser, structure by rule.

A completion states its answer in its last box, after `####`, or in a phrase such as
"the answer is". The answer and the gold answer are read as structures (`reading.py`)
and compared by kind, order, brackets, units and value (`equivalence.py`).
"""

from targetsft_jax.evaluation.graders.equivalence import equivalent
from targetsft_jax.evaluation.graders.grade import Grade, check_mode
from targetsft_jax.evaluation.graders.latex import clean, is_balanced, tokens
from targetsft_jax.evaluation.graders.limits import is_too_long, readable_tail
from targetsft_jax.evaluation.graders.reading import read_answer
from targetsft_jax.evaluation.graders.statements import find_statement
from targetsft_jax.evaluation.graders.structure import Structure


def grade_math(output: str, gold: str, *, mode: str = "strict") -> Grade:
    """Grade the answer of a completion against a gold answer.

    It takes place in this process and without a time limit, but for those on size;
    `grade_all` grades in processes that are killed.

    Args:
        output: the completion.
        gold: the gold answer, or a worked solution that states it.
        mode: `strict`; or `reference`, the rules of published tables.

    Raises:
        ValueError: no such mode; a gold answer that cannot be parsed.
    """
    check_mode(mode)
    if mode == "reference":
        from targetsft_jax.evaluation.graders import reference_maths

        return reference_maths.grade(output, gold)
    text, readings = _gold(gold)
    statement = find_statement(readable_tail(output))
    if statement is None:
        return Grade(False, None, "no answer")
    stated = ", ".join(statement.answers)
    shown = stated[:500]
    if not stated.strip():
        return Grade(False, None, "no answer")
    if is_too_long(stated):
        return Grade(stated.strip() == text, shown, "too long")
    if len(statement.answers) > 1:
        stated = ", ".join(f"{{{answer}}}" for answer in statement.answers)
    if _same_notation(stated, text):
        return Grade(True, shown, statement.how)
    answers = read_answer(stated)
    if not answers:
        return Grade(False, shown, "unparsed")
    correct = any(equivalent(a, b) for a in readings for b in answers)
    several = not correct and len(statement.answers) > 1
    return Grade(correct, shown, "several answers" if several else statement.how)


def check_gold(gold: str) -> None:
    """Check that a gold answer can be parsed.

    Raises:
        ValueError: it cannot.
    """
    _gold(gold)


def _gold(gold: str) -> tuple[str, list[Structure]]:
    """The text of a gold answer, and the ways to read it."""
    text = gold.strip()
    if "box" in text or "####" in text:
        statement = find_statement(text)
        if statement is not None:
            text = ", ".join(statement.answers)
    if not text:
        raise ValueError(
            "the gold answer is empty; check the field that it is read from"
        )
    readings = [] if is_too_long(text) else read_answer(text)
    if not readings and not _is_notation(text):
        raise ValueError(
            f"the gold answer {text[:200]!r} cannot be parsed; expected a number, an"
            " expression in LaTeX, or words: correct it or leave the row out"
        )
    return text, readings


def _is_notation(text: str) -> bool:
    """True for complete LaTeX beyond the parser, which only equal notation matches."""
    return (
        len(text) <= 500 and is_balanced(clean(text)) and any(c in text for c in "\\^")
    )


def _same_notation(stated: str, gold: str) -> bool:
    cleaned = clean(stated)
    return is_balanced(cleaned) and tokens(cleaned) == tokens(clean(gold))
