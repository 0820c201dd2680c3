"""Masks of a scripted solver whose critical tokens are known."""

import pytest

from targetsft_jax.data.chat import encode_prompt
from targetsft_jax.data.records import Problem
from targetsft_jax.mining.criticality import Answer, critical_masks
from targetsft_jax.mining.settings import MiningSettings

from .solver import STOP, TOKENIZER, Solver

SOLUTION = "8+6+0=14\n7+5+1=13\n4+3+1=08\n#### 834"
PROBLEM = Problem([{"role": "user", "content": "478+356=?"}], "834", "sum")


def mask(solver: Solver, **settings) -> str:
    """Mask of the solution as a text of digits."""
    prompt = encode_prompt(PROBLEM.messages, TOKENIZER).tolist()
    tokens = [*TOKENIZER(SOLUTION)["input_ids"], STOP]
    answer = Answer(PROBLEM, SOLUTION, prompt, tokens)
    options = MiningSettings(**{"max_new_tokens": 48} | settings)
    return "".join(map(str, critical_masks(solver, [answer], options)[0]))


def test_the_mask_is_that_of_the_known_tokens():
    known = [character.isdigit() or character == "#" for character in SOLUTION]
    # The space behind the mark: "####_834" states no number.
    known[SOLUTION.index("# ") + 1] = True
    known.append(False)
    assert mask(Solver()) == "".join(str(int(critical)) for critical in known)


def test_any_counts_a_token_with_one_failing_alternative():
    # Rank 3 of a mark is the stop token, which ends the answer too early; behind the
    # answer it changes nothing.
    assert mask(Solver(), rule="any") == "1" * len(SOLUTION) + "0"
    assert mask(Solver(), rule="any", alternatives="2") == mask(Solver())


def test_an_alternative_is_generated_only_if_it_can_change_the_result():
    digits = sum(character.isdigit() for character in SOLUTION) + 5
    solver = Solver()
    mask(solver)
    # Rank 3 of the marks is never generated: rank 2 stays correct. That of "#### " is
    # the stop token, which generates nothing.
    assert solver.calls == len(SOLUTION) + 1 + digits - 5
    solver = Solver()
    mask(solver, rule="any")
    assert solver.calls == len(SOLUTION) + 1


def test_a_stop_token_ends_the_answer_without_generation():
    solver = Solver()
    only_stops = mask(solver, alternatives="3", rule="any")
    assert only_stops == "1" * len(SOLUTION) + "0"
    assert solver.calls == sum(character.isdigit() for character in SOLUTION)


@pytest.mark.parametrize(("budget", "critical"), [(37, "0"), (36, "1")])
def test_a_regenerated_answer_has_the_budget_of_the_original(budget, critical):
    # The stop token replaced by a space: one token more than the 36 of the answer.
    assert len(SOLUTION) + 1 == 36
    only_space = mask(Solver(), max_new_tokens=budget, alternatives="2")
    assert only_space[-1] == critical


def test_an_answer_that_never_ends_is_wrong():
    endless = Solver(endless=["478+356=?"])
    assert mask(endless, alternatives="2") == "1" * (len(SOLUTION) + 1)


@pytest.mark.parametrize("rule", ["all", "any"])
def test_improbable_alternatives_are_left_out(rule):
    digits = "".join(str(int(c.isdigit())) for c in SOLUTION) + "0"
    solver = Solver()
    assert mask(solver, rule=rule, min_probability=1e-3) == digits
    tried = 2 if rule == "all" else 1
    assert solver.calls == tried * digits.count("1")
    # Rank 3 has the probability 0.133.
    assert mask(Solver(), rule=rule, min_probability=0.15) == digits
    assert "1" not in mask(Solver(), rule=rule, min_probability=0.3)
