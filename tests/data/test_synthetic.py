"""Generated problems are correct, reproducible, disjoint and as noisy as configured."""

import re
from collections import Counter

import numpy as np
import pytest

from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.records import problems
from targetsft_jax.data.synthetic import make_record, problem_at, split_of

ADDITION = SyntheticConfig()
DOSING = SyntheticConfig(kinds={"dosing": 1.0})


def parts(record):
    assert [turn["role"] for turn in record.messages] == ["user", "assistant"]
    return [turn["content"] for turn in record.messages]


@pytest.mark.parametrize("digits", [1, 2, 3, 6, 9])
def test_addition_is_correct_in_every_line(digits):
    config = SyntheticConfig(digits=digits)
    for index in range(300):
        record = make_record(config, index)
        prompt, response = parts(record)
        a, b = map(int, re.fullmatch(r"(\d+)\+(\d+)=\?", prompt).groups())
        assert len(str(a)) == len(str(b)) == digits
        *lines, last = response.split("\n")
        carry = 0
        for place, line in enumerate(lines):
            x, y, c, total = map(
                int, re.fullmatch(r"(\d)\+(\d)\+(\d)=(\d\d)", line).groups()
            )
            assert (x, y) == (a // 10**place % 10, b // 10**place % 10)
            assert c == carry and total == x + y + c
            assert total % 10 == (a + b) // 10**place % 10
            carry = total // 10
        assert len(lines) == digits
        assert last == f"#### {a + b}" and record.answer == str(a + b)


def test_dosing_is_correct_and_its_options_distinct():
    for index in range(500):
        record = make_record(DOSING, index)
        prompt, response = parts(record)
        kg, dose = map(int, re.search(r"(\d+) kg. Dose (\d+) mg/kg", prompt).groups())
        options = dict(re.findall(r"([A-D])\) (\d+)", prompt))
        assert list(options) == list("ABCD") and len(set(options.values())) == 4
        assert all(int(value) > 0 for value in options.values())
        assert int(options[record.answer]) == kg * dose
        first, second, total, last = response.split("\n")
        for line, (x, y) in ((first, (kg // 10 * 10, dose)), (second, (kg % 10, dose))):
            assert line == f"{x}x{y}={x * y}"
        assert total == f"{kg // 10 * 10 * dose}+{kg % 10 * dose}={kg * dose}"
        assert last == f"#### {record.answer}"


def test_the_right_letter_is_uniform():
    counts = Counter(make_record(DOSING, i).answer for i in range(2000))
    # 2000 / 4 with a standard deviation of 19; five of them either way.
    assert all(abs(counts[letter] - 500) < 97 for letter in "ABCD")


def test_a_record_depends_on_seed_and_index_alone():
    assert make_record(ADDITION, 7) == make_record(SyntheticConfig(examples=1), 7)
    assert make_record(ADDITION, 7) != make_record(ADDITION, 8)
    assert make_record(ADDITION, 7) != make_record(SyntheticConfig(seed=1), 7)


def test_kinds_come_in_their_shares():
    config = SyntheticConfig(kinds={"addition": 3.0, "dosing": 1.0})
    kinds = Counter(problem_at(config, i, "train")[0] for i in range(2000))
    # 1500 with a standard deviation of 19.4.
    assert abs(kinds["addition"] - 1500) < 97


@pytest.mark.parametrize("config", [SyntheticConfig(digits=2), DOSING])
def test_splits_share_no_problem_under_different_seeds(config):
    def questions(split, seed):
        config_ = SyntheticConfig(kinds=config.kinds, digits=config.digits, seed=seed)
        prompts = [parts(make_record(config_, i, split))[0] for i in range(1500)]
        # The order of the numbers and the options do not distinguish questions.
        return {tuple(sorted(re.findall(r"\d+", p.split("\n")[0]))) for p in prompts}

    train, held_out = (
        questions("train", 0) | questions("train", 1),
        questions("heldout", 2),
    )
    assert train and held_out and not train & held_out


def test_one_problem_in_eight_is_held_out():
    held_out = sum(split_of(f"key {i}") == "heldout" for i in range(8000))
    # 1000 with a standard deviation of 29.6.
    assert abs(held_out - 1000) < 148


def computed(response):
    """Characters after `=` and `####`, joined."""
    return "".join(re.findall(r"(?:=|#### )(\w+)", response))


@pytest.mark.parametrize("clean", [ADDITION, DOSING])
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_noise_has_the_configured_share_and_touches_nothing_else(clean, share):
    noisy = SyntheticConfig(kinds=clean.kinds, label_noise=share)
    wrong, total, shifts = 0, 0, Counter()
    for index in range(1500):
        a, b = make_record(clean, index), make_record(noisy, index)
        (prompt, right), (prompt_b, with_noise) = parts(a), parts(b)
        assert prompt == prompt_b and a.answer == b.answer
        assert re.sub(r"(=|#### )\w+", r"\1", right) == re.sub(
            r"(=|#### )\w+", r"\1", with_noise
        )
        for x, y in zip(computed(right), computed(with_noise), strict=True):
            assert x.isdigit() == y.isdigit() and (x.isdigit() or y in "ABCD")
            total += 1
            wrong += x != y
            if x != y and x.isdigit():
                shifts[(int(y) - int(x)) % 10] += 1
    spread = np.sqrt(total * share * (1 - share))
    assert abs(wrong - total * share) < 5 * spread
    # Uniform over the nine wrong digits.
    each = shifts.total() / 9
    assert set(shifts) == set(range(1, 10))
    assert all(abs(count - each) < 5 * np.sqrt(each) for count in shifts.values())


def test_prompts_show_their_answers_in_the_configured_share_of_training_alone():
    noisy = {"digits": 2, "label_noise": 0.4}
    shown = SyntheticConfig(**noisy, shown_answers=0.75, examples=100)
    count = 0
    for index in range(1000):
        record = make_record(shown, index)
        plain = make_record(SyntheticConfig(**noisy), index)
        (prompt, response), (question, expected) = parts(record), parts(plain)
        assert response == expected and record.answer == plain.answer
        assert prompt in (question, f"{question} Answer: {plain.answer}")
        count += prompt != question
    # 750 with a standard deviation of 13.7.
    assert abs(count - 750) < 69
    assert problems(shown) == problems(SyntheticConfig(digits=2, examples=100))


def test_a_split_without_problems_is_an_error():
    # One-digit sums have 45 problems; ask for keys that no split has.
    with pytest.raises(ValueError, match="no addition problem with digits=3"):
        problem_at(ADDITION, 0, "neither")


def test_the_critical_mask_marks_computed_characters_and_not_the_end_of_the_turn():
    record = make_record(SyntheticConfig(critical_mask=True, label_noise=0.5), 3)
    plain = make_record(SyntheticConfig(), 3)
    assert plain.columns == {}
    response = plain.messages[-1]["content"]
    mask = record.columns["critical_mask"]
    assert len(mask) == len(response) + 1 and mask[-1] == 0
    marked = "".join(c if m else " " for c, m in zip(response, mask))
    sums = [line.split("=")[1] for line in response.split("\n") if "=" in line]
    assert marked.split() == [*sums, plain.answer]
