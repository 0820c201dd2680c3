"""Worked examples: choice by seed and problem, rendering, sources."""

import gzip
import json
from dataclasses import replace

import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.evaluation.benchmarks import BENCHMARKS, find, load
from targetsft_jax.evaluation.benchmarks.few_shot import (
    FewShot,
    Shot,
    choose,
    messages,
)

POOL = [Shot(f"r{n}", f"Question {n % 8}?", f"Q{n}", f"A{n}") for n in range(10)]


def _drawn(examples=3, seed=0, problem="p", question="other"):
    shots = choose(POOL, FewShot(examples, seed=seed), problem, question)
    return [shot.id for shot in shots]


def test_the_choice_depends_on_the_seed_and_the_problem():
    assert _drawn() == _drawn() and len(set(_drawn())) == 3
    draws = {tuple(_drawn(problem=f"p{n}", seed=n % 2)) for n in range(20)}
    assert len(draws) > 15


def test_examples_with_the_question_of_the_problem_are_never_chosen():
    """Also under other white space and case, and if several rows have it."""
    for problem in map(str, range(50)):
        drawn = _drawn(8, problem=problem, question="question   1? ")
        assert sorted(drawn) == ["r0", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]
    with pytest.raises(ValueError, match="is 9; expected at most the 8 examples"):
        _drawn(9, question="Question 1?")


def test_prompts_are_turns_or_one_text():
    shots = POOL[:2]
    turns = messages("Be brief.", shots, "Q", plain=False)
    assert [turn["role"] for turn in turns] == [
        *("system", "user", "assistant", "user", "assistant", "user")
    ]
    assert [turn["content"] for turn in turns] == [
        *("Be brief.", "Q0", "A0", "Q1", "A1", "Q")
    ]
    (text,) = messages("Be brief.", shots, "Q", plain=True)
    assert text["content"] == "Be brief.\n\nQ0 A0\n\nQ1 A1\n\nQ"
    assert messages(None, [], "Q", plain=True) == messages(None, [], "Q", plain=False)


def _write(folder, name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text)


@pytest.fixture
def benchmark(tmp_path):
    """Write rows and a benchmark of five problems; returns its loaded problems."""
    rows = [
        {
            "q": f"{n} + 1?",
            "a": str(n + 1),
            "why": f"{n} and 1.",
            "o": ["0", str(n + 1)],
        }
        for n in range(5)
    ]
    _write(tmp_path, "rows.jsonl", rows)
    shots = [row | {"q": f"{row['q']} (train)"} for row in rows]
    _write(tmp_path, "train.jsonl", shots)

    def loaded(text, **options):
        data = "grader: exact\ndata: {source: jsonl, path: rows.jsonl}\n"
        path = tmp_path / "sums.yaml"
        path.write_text(f"{data}question: q\nanswer: a\nprompt: '{{question}}'\n{text}")
        return load(find(str(path)), **options).problems

    return loaded


def test_examples_are_from_their_source_beside_the_file(benchmark):
    problems = benchmark("few_shot: {examples: 2, data: {path: train.jsonl}}")
    for problem in problems:
        turns = [turn["content"] for turn in problem.messages]
        assert len(turns) == 5 and turns[4] == problem.question
        for prompt, answer in (turns[0:2], turns[2:4]):
            assert prompt.endswith("(train)")
            assert int(answer) == int(prompt.split()[0]) + 1


def test_without_a_source_the_other_problems_are_the_examples(benchmark):
    problems = benchmark("few_shot: {examples: 4}")
    for problem in problems:
        questions = [m["content"] for m in problem.messages if m["role"] == "user"]
        assert sorted(questions) == sorted(p.question for p in problems)
        assert questions[-1] == problem.question
    with pytest.raises(ValueError, match="few_shot.examples is 5; expected at most"):
        benchmark("few_shot: {examples: 5}")


def test_a_response_is_a_template_or_the_gold_answer_as_requested(benchmark):
    first = benchmark("few_shot: {examples: 1, response: '{why} So {a}.'}")[0]
    prompt, response = (turn["content"] for turn in first.messages[:2])
    number = int(prompt.split()[0])
    assert response == f"{number} and 1. So {number + 1}."
    boxed = benchmark("few_shot: {examples: 1}\nsystem: 'Hi.'\n")[0]
    assert boxed.messages[2]["content"].isdecimal()


def test_the_number_of_examples_does_not_change_the_problems(benchmark):
    with_shots = benchmark("few_shot: {examples: 2}", limit=3)
    without = benchmark("few_shot: {examples: 0}", limit=3)
    assert [(p.id, p.answer, p.question) for p in with_shots] == [
        (p.id, p.answer, p.question) for p in without
    ]
    assert [len(p.messages) for p in without] == [1, 1, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("few_shot: {examples: -1}", "few_shot.examples is -1"),
        ("few_shot: {example: 1}", "few_shot.example is not a key"),
        ("few_shot: {examples: 1, data: {}}", "few_shot.data"),
        ("scoring: log_likelihood", "grader is exact; expected choice"),
        ("scored: letter", "scored is letter; expected null"),
        ("stop: ['']", "stop is .*expected texts that are not empty"),
        ("rendering: html", "rendering is 'html'; expected one of chat, plain"),
    ],
)
def test_wrong_keys_are_refused(benchmark, text, message):
    with pytest.raises(UsageError, match=message):
        benchmark(text)


def test_published_examples_are_of_the_training_split(shared):
    """GSM8K, with its published solutions in a box."""
    few_shot = FewShot(2)
    entry = replace(BENCHMARKS["gsm8k"], few_shot=few_shot)
    folder = shared / "data" / "gsm8k"
    test, train = folder / "test.jsonl", folder / "train.jsonl.gz"
    loaded = load(entry, path=str(test), shots_path=str(train), limit=3)
    training = gzip.decompress(train.read_bytes()).decode()
    for problem in loaded.problems:
        roles = [message["role"] for message in problem.messages]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        for turn, response in (problem.messages[0:2], problem.messages[2:4]):
            assert response["content"].startswith("\\boxed{")
            question = turn["content"].split("\nPlease reason")[0]
            assert json.dumps(question)[1:30] in training
