"""Generated problems with worked steps and a configurable share of wrong digits.

There are two kinds, one from arithmetic and one from medicine:

    478+356=?                    A patient weighs 24 kg. Dose 5 mg/kg. How many mg?
                                 A) 100 B) 120 C) 115 D) 140
    8+6+0=14                     20x5=100
    7+5+1=13                     4x5=20
    4+3+1=08                     100+20=120
    #### 834                     #### B

In the first, each line adds one column and the carry, and its sum has two digits:
the new carry, then the digit of the answer.

A hash of the question (the numbers in either order, without the options) selects the
split, so that no seed and no number of examples brings a held-out problem into
training.
"""

import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.record import Record

if TYPE_CHECKING:
    from targetsft_jax.data.config import SyntheticConfig

LETTERS = "ABCD"
# Held-out hash buckets of 256: one problem in eight.
_HELD_OUT_BUCKETS = 32
# Draws after which a split counts as empty; a held-out problem takes eight on average.
_MAX_DRAWS = 10_000


@dataclass(frozen=True)
class SyntheticProblem:
    """A problem with its correct solution."""

    key: str
    """Canonical form of the question, which determines the split."""
    prompt: str
    response: str
    answer: str


def make_record(
    config: "SyntheticConfig", index: int, split: str | None = None
) -> Record:
    """Generate record `index`: a pure function of the config and the index.

    Args:
        config: kinds, digits, noise and seed; `examples` has no effect.
        index: 0 or more.
        split: `train` or `heldout`; None: the config's.

    Returns:
        Record whose response has the config's label noise and whose answer is always
        correct.
    """
    split = split or config.split
    kind, problem = problem_at(config, index, split)
    prompt, response = problem.prompt, problem.response
    columns: dict[str, float | list[float]] = {}
    if config.critical_mask:
        # The last entry is that of the token that ends the turn.
        columns["critical_mask"] = [*map(float, is_computed(response)), 0.0]
    if config.label_noise > 0:
        # A separate random stream, so that the problems do not depend on the noise.
        rng = np.random.default_rng([config.seed, index, 1])
        response = add_noise(response, config.label_noise, rng)
    if config.shown_answers > 0:
        rng = np.random.default_rng([config.seed, index, 2])
        if rng.random() < config.shown_answers:
            prompt += f" Answer: {problem.answer}"
    return Record(
        messages=[
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ],
        answer=problem.answer,
        columns=columns,
        origin=f"{kind}:{split}:{config.seed}:{index}",
    )


def problem_at(
    config: "SyntheticConfig", index: int, split: str
) -> tuple[str, SyntheticProblem]:
    """Kind and problem of record `index` of a split.

    Raises:
        ValueError: the kind has no problem in this split (numbers of one digit).
    """
    rng = np.random.default_rng([config.seed, index, 0])
    kinds = sorted(config.kinds)
    weights = np.array([config.kinds[kind] for kind in kinds], np.float64)
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    for _ in range(_MAX_DRAWS):
        problem = KINDS[kind](config, rng)
        if split_of(problem.key) == split:
            return kind, problem
    raise ValueError(
        f"synthetic.kinds: no {kind} problem with digits={config.digits} belongs to"
        f" the {split} split; raise synthetic.digits"
    )


def split_of(key: str) -> str:
    """`train` or `heldout`, as a function of the question alone."""
    bucket = hashlib.blake2b(key.encode(), digest_size=1).digest()[0]
    return "heldout" if bucket < _HELD_OUT_BUCKETS else "train"


def add_noise(response: str, share: float, rng: np.random.Generator) -> str:
    """Replace computed characters by wrong ones, each with probability `share`.

    A digit becomes one of the nine others, an option letter one of the three others,
    uniformly. Operands are copied, not computed, and stay unchanged.
    """
    return "".join(
        _noisy(character, share, rng) if computed else character
        for character, computed in zip(response, is_computed(response))
    )


def is_computed(response: str) -> list[bool]:
    """For each character of a response, True if it is computed rather than copied.

    Computed are the digits and option letters after `=` on a line and after `####`.
    """
    marks: list[bool] = []
    for line in response.split("\n"):
        mark = "####" if line.startswith("####") else "="
        start = line.find(mark) + len(mark) if mark in line else len(line)
        marks += [
            index >= start and character in string.digits + LETTERS
            for index, character in enumerate(line)
        ]
        marks.append(False)
    return marks[:-1]


def _noisy(character: str, share: float, rng: np.random.Generator) -> str:
    alphabet = string.digits if character in string.digits else LETTERS
    if rng.random() >= share:
        return character
    step = rng.integers(1, len(alphabet))
    return alphabet[(alphabet.index(character) + step) % len(alphabet)]


def _addition(config: "SyntheticConfig", rng: np.random.Generator) -> SyntheticProblem:
    low, high = 10 ** (config.digits - 1), 10**config.digits
    a, b = (int(n) for n in rng.integers(low, high, size=2))
    lines, carry = [], 0
    for x, y in zip(reversed(str(a)), reversed(str(b))):
        column = int(x) + int(y) + carry
        lines.append(f"{x}+{y}+{carry}={column:02d}")
        carry = column // 10
    answer = str(a + b)
    return SyntheticProblem(
        key=f"addition {min(a, b)} {max(a, b)}",
        prompt=f"{a}+{b}=?",
        response="\n".join([*lines, f"#### {answer}"]),
        answer=answer,
    )


def _dosing(config: "SyntheticConfig", rng: np.random.Generator) -> SyntheticProblem:
    weight, dose = int(rng.integers(11, 100)), int(rng.integers(2, 10))
    tens, units = weight // 10 * 10, weight % 10
    milligrams = weight * dose
    # Plausible mistakes: a factor off by one, a partial product left out, a carry
    # lost or invented.
    mistakes = {
        *(milligrams + sign * n for sign in (1, -1) for n in (dose, weight, 10)),
        tens * dose,
        tens * dose + units,
        (tens + 10) * dose,
    }
    wrong = sorted(n for n in mistakes if n > 0 and n != milligrams)
    options = [int(n) for n in rng.choice(wrong, size=3, replace=False)]
    position = int(rng.integers(4))
    options.insert(position, milligrams)
    lettered = " ".join(f"{letter}) {n}" for letter, n in zip(LETTERS, options))
    return SyntheticProblem(
        key=f"dosing {weight} {dose}",
        prompt=(
            f"A patient weighs {weight} kg. Dose {dose} mg/kg. How many mg?\n{lettered}"
        ),
        response=(
            f"{tens}x{dose}={tens * dose}\n{units}x{dose}={units * dose}\n"
            f"{tens * dose}+{units * dose}={milligrams}\n#### {LETTERS[position]}"
        ),
        answer=LETTERS[position],
    )


KINDS: dict[
    str, Callable[["SyntheticConfig", np.random.Generator], SyntheticProblem]
] = {"addition": _addition, "dosing": _dosing}
"""Generators of problems, by kind."""
