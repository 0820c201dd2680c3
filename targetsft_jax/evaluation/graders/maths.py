"""Strict grader of mathematical answers."""

from targetsft_jax.evaluation.graders.answers import extract
from targetsft_jax.evaluation.graders.grade import Grade, check_mode


def grade_math(output: str, gold: str, *, mode: str = "strict") -> Grade:
    """Grade a completion against a gold answer."""
    from math_verify import parse, verify

    check_mode(mode)
    check_gold(gold)
    stated, how = extract(output)
    if stated is None:
        if "answer is" not in output:
            return Grade(False, None, how)
        stated, how = output.rpartition("answer is")[2].strip(" .$\n"), "statement"
    pair = [parse(f"${x}$", parsing_timeout=None) for x in (gold, stated)]
    return Grade(bool(verify(*pair, timeout_seconds=None)), stated, how)


def check_gold(gold: str) -> None:
    """Raise ValueError for a gold answer that cannot be parsed."""
    if not gold.strip():
        raise ValueError("the gold answer is empty")
