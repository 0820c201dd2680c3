"""Choices as published medical evaluations read them: the last match, else a guess.

The rules of the lineage HuatuoGPT-o1, Beyond-Log-Likelihood: boxes are not read, a
letter in prose counts, and an output without an answer gets the option nearest to its
text. Use it only for numbers that are compared with published tables.
"""

import difflib
import re
from collections.abc import Mapping

from targetsft_jax.evaluation.graders.grade import Grade

_FINAL = "## Final Response\n\n"


def grade(output: str, gold_letter: str, options: Mapping[str, str]) -> Grade:
    """Grade by the published rules, in their order."""
    letter, how = match_choice(output, options)
    return Grade(letter.lower() == gold_letter.lower(), letter, how)


def match_choice(output: str, options: Mapping[str, str]) -> tuple[str, str]:
    """The option that the published rules find, and the rule that found it."""
    text = output.rpartition(_FINAL)[2]
    letters = "".join(re.escape(letter) for letter in options)
    stated = re.findall(r"answer is\s*?([A-N])", text)
    if stated:
        return stated[-1], "statement"
    pattern = rf"(?<![a-zA-Z0-9])(?!(?:a|A) )([{letters}])(?=\W|$)"
    alone = [m.group(1) for m in re.finditer(pattern, text) if _apart(text, m)]
    if alone:
        return alone[-1], "letter"
    lower = text.lower()
    places = [
        (lower.rfind(option.lower()), letter)
        for letter, option in options.items()
        if option and option.lower() in lower
    ]
    if places:
        return max(places)[1], "option text"
    names = [option.lower() for option in options.values()]
    nearest = difflib.get_close_matches(lower, names, n=1, cutoff=0)
    index = names.index(nearest[0]) if nearest else len(names) - 1
    return list(options)[index], "guess"


def _apart(text: str, match: re.Match[str]) -> bool:
    before = text[match.start() - 1 : match.start()]
    return not before or not before.isalnum() and before not in "_'"
