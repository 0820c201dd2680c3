"""Mining end to end without a model: rows, outcomes, continuation, refusals."""

import json
import os
import signal

import numpy as np
import pytest

from targetsft_jax.command import Stopped, UsageError
from targetsft_jax.config.data_checks import check_weights
from targetsft_jax.config.load import load
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.records import problems

from .solver import TOKENIZER, Solver

CFT = ["--student.path", "x", "--target.name", "cft"]
QUESTIONS = [
    problem.messages[0]["content"] for problem in problems(SyntheticConfig(), n=6)
]


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class Interrupted(Solver):
    """A solver that receives a SIGTERM after so many calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def complete(self, prompts, max_new_tokens):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().complete(prompts, max_new_tokens)


def test_rows_have_the_answer_and_one_number_per_trained_token(mining):
    rows = read(mining().rows)
    assert [row["messages"][0]["content"] for row in rows] == QUESTIONS
    for row in rows:
        response = row["messages"][1]["content"]
        assert response.endswith(f"#### {row['answer']}")
        assert len(row["critical_mask"]) == len(response) + 1
        assert set(row["critical_mask"]) == {0, 1}
        assert row["critical_mask"][-1] == 0


def test_a_training_reads_the_column_at_the_tokens_of_the_answer(mining):
    mined = mining()
    data = DataConfig(source="jsonl", path=str(mined.rows), max_length=64)
    dataset = prepare(data, TOKENIZER).train
    check_weights(load(CFT), [dataset])
    found = {}
    for number in range(len(dataset.examples)):
        example = dataset.examples.take(number)
        mask, tokens = example.columns["critical_mask"], example.tokens
        critical = TOKENIZER.decode(tokens[mask > 0])
        question = TOKENIZER.decode(tokens).split("<|assistant|>")[0]
        found[question] = critical
    for row in read(mined.rows):
        prompt, answer = (message["content"] for message in row["messages"])
        pieces = np.array(list(answer))[np.array(row["critical_mask"][:-1]) > 0]
        assert found[f"<|user|>{prompt}"] == "".join(pieces)
        assert "".join(pieces).endswith(f"#### {row['answer']}")


def test_problems_without_a_correct_answer_are_counted_by_reason(mining, capsys):
    solver = Solver(wrong=QUESTIONS[:2], endless=QUESTIONS[3:4])
    mined = mining(solver)
    assert [line["outcome"] for line in read(mined.outcomes)] == [
        "wrong",
        "wrong",
        "used",
        "truncated",
        "used",
        "used",
    ]
    output = capsys.readouterr().out
    rows = read(mined.rows)
    critical = sum(sum(row["critical_mask"]) for row in rows)
    tokens = sum(len(row["critical_mask"]) for row in rows)
    assert len(rows) == 3
    assert f"{critical} of {tokens} response tokens" in output
    assert "rows             3 of 6 problems" in output
    assert "skipped 2: the greedy answer is wrong" in output
    assert "skipped 1: the greedy answer has more than max_new_tokens" in output


def test_a_model_without_correct_answers_is_refused_with_the_reasons(mining, capsys):
    with pytest.raises(ValueError, match="has no row: no greedy answer of m"):
        mining(Solver(wrong=QUESTIONS))
    assert "skipped 6: the greedy answer is wrong" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [1, 2, 3, 6])
def test_a_continuation_gives_the_files_of_an_uninterrupted_mining(mining, calls):
    expected = mining(name="expected")
    with pytest.raises(Stopped, match="are kept, and the same command continues"):
        mining(Interrupted(calls))
    mined = mining()
    assert mined.rows.read_bytes() == expected.rows.read_bytes()
    assert mined.outcomes.read_bytes() == expected.outcomes.read_bytes()
    assert calls < 6 or mined.solver.calls < expected.solver.calls


def test_another_batch_size_and_a_larger_limit_continue(mining):
    expected = mining(name="expected")
    assert len(read(mining(limit=2).rows)) == 2
    mined = mining(batch_size=100)
    assert mined.rows.read_bytes() == expected.rows.read_bytes()
    assert mining().solver.calls == 0


def test_a_problem_that_has_changed_is_refused(mining):
    mined = mining()
    lines = read(mined.outcomes)
    lines[4]["problem"] = "other"
    mined.outcomes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="heldout:0:.* has another prompt or gold"):
        mining()


def test_other_settings_are_refused_by_key(mining):
    mining()
    with pytest.raises(UsageError, match='was mined with rule "all"; now it is "any"'):
        mining(rule="any")


def test_generated_problems_are_compared_with_the_computed_ones(mining, capsys):
    mining()
    output = capsys.readouterr().out
    # All computed and all copied digits are critical for the solver.
    assert "recall 1.000" in output
    assert "copied      54 of      54 tokens critical (100.0 %)" in output
    assert "stop         0 of       6 tokens critical (0.0 %)" in output
    assert "⟧⏹" in output
