"""Benchmarks by name, from users' YAML files and from the hub's eval.yaml."""

from pathlib import Path

import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.evaluation.benchmarks import BENCHMARKS, eval_yaml, find, load
from targetsft_jax.evaluation.graders.registry import GRADERS


def test_every_entry_is_consistent():
    for name, benchmark in BENCHMARKS.items():
        assert find(name) is benchmark and benchmark.name == name
        assert not list(benchmark.contradictions())
        assert benchmark.grader in GRADERS and benchmark.published_size


@pytest.mark.parametrize(
    "text, parts",
    [
        ("grader: maths", ("grader is 'maths'", "math, choice, exact")),
        ("grade: math", ("grade is not a key", "Did you mean grader?")),
        ("prompt: Solve this.", ("prompt is 'Solve this.'", "{question}")),
        ("grader: choice", ("options is null", "choice")),
        ("options: 3", ("options is 3", "a list or null")),
        ("name: a/b", ("name is 'a/b'", "letters")),
        ("data: {source: synthetic}", ("data.source is synthetic",)),
        ("data: {source: jsonl}", ("data.path is None",)),
        ("data: {sauce: jsonl}", ("data.sauce is not a key",)),
        ("published_size: 0", ("published_size is 0",)),
        ("- a", ("is a list",)),
        ("", ("is empty",)),
    ],
    ids=str,
)
def test_refusals_name_file_and_key(tmp_path, text, parts):
    path = tmp_path / "mine.yaml"
    if "data" not in text and text[:1] not in ("-", ""):
        text += "\ndata: {source: jsonl, path: rows.jsonl}"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        find(str(path))
    for part in (str(path), *parts):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["math5000", "absent.yaml", "no such"])
def test_an_unknown_benchmark_lists_those_there_are(name):
    with pytest.raises(UsageError) as error:
        find(name)
    if name == "absent.yaml":
        assert "absent.yaml" in str(error.value)
    else:
        assert "math500, minerva_math" in str(error.value)


EVAL = """
name: Tiny
description: Three sums.
evaluation_framework: inspect-ai
tasks:
- id: sums
  split: test
  field_spec: {input: problem, target: answer}
  epochs: 4
  epoch_reducer: mean
  solvers:
  - {name: system_message, args: {template: Be exact.}}
  - {name: prompt_template, args: {template: "Solve: {prompt}"}}
  - {name: generate}
  scorers: [{name: math}]
- id: letters
  field_spec: {input: problem, target: answer, choices: options}
  shuffle_choices: 7
  solvers: [{name: multiple_choice}]
  scorers: [{name: choice}]
- id: fixed
  field_spec: {input: problem, target: "literal:42"}
  solvers: [generate]
  scorers: [exact]
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "eval.yaml").write_text(EVAL)
    (tmp_path / "test.jsonl").write_text(
        '{"problem": "1+1", "answer": "0", "options": ["2", "3"]}\n'
    )
    return tmp_path


def test_the_named_part_of_an_eval_yaml_is_read(folder):
    sums = find(f"{folder}:sums")
    assert (sums.name, sums.grader, sums.samples) == ("sums", "math", 4)
    (problem,) = load(sums).problems
    assert [m["content"] for m in problem.messages] == ["Be exact.", "Solve: 1+1"]
    letters = find(f"{folder / 'eval.yaml'}:letters")
    (problem,) = load(letters).problems
    # A target of choices is an index.
    assert letters.shuffle_options == 7 and problem.options[problem.answer] == "2"
    assert "\nA. " in problem.messages[0]["content"]
    (problem,) = load(find(f"{folder}:fixed")).problems
    assert problem.answer == "42" and problem.messages[0]["content"] == "1+1"


def test_a_task_must_be_selected(folder):
    with pytest.raises(UsageError, match="3 tasks; expected one of sums, letters, fix"):
        find(str(folder))
    with pytest.raises(UsageError, match="no task none; expected sums"):
        find(f"{folder}:none")


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "scorers: [{name: math}]",
            "scorers: [{name: f1}]",
            r"scorers\[0\] is f1; exp",
        ),
        ("{name: generate}", "{name: self_critique}", r"solvers\[2\] is self_critique"),
        (
            "epoch_reducer: mean",
            "epoch_reducer: mode",
            "epoch_reducer is 'mode'; expec",
        ),
        ("epochs: 4", "epochs: 0", "epochs is 0; expected a whole number"),
        ("epochs: 4", "sandbox: docker", r"tasks\[0\].sandbox is not supported"),
        ("{input: problem,", "{inputs: problem,", "expected a mapping with input and"),
        ("scorers: [{name: math}]", "scorers: []", "expected a list of one of math"),
        ("name: Tiny", "names: Tiny", "names is not supported"),
        ("split: test", "config: b", "config is 'b'; expected a folder of"),
        ("Solve: {prompt}", "{prompt} {letters}", "has {letters}; expected only"),
        ("scorers: [{name: math}]", "scorers: [choice]", "choices is null; expected"),
        ("target: answer}", "target: answer, choices: 3}", "choices is 3; expected a"),
        (
            "scorers: [{name: math}]",
            "scorers: [{name: math, args: {a: 1}}]",
            "a is not supported; expected no arguments",
        ),
    ],
)
def test_the_rest_is_refused_by_name(folder, old, new, message):
    (folder / "eval.yaml").write_text(EVAL.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        find(f"{folder}:sums")


def test_an_id_of_the_hub_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr(eval_yaml, "download", {"org/tiny": folder}.__getitem__)
    found = find("org/tiny:sums")
    assert (found.grader, found.hub) == ("math", "org/tiny")


def test_doubled_braces_of_a_template_are_single(folder):
    text = EVAL.replace("Solve: {prompt}", "{prompt} In \\\\boxed{{}}.")
    (folder / "eval.yaml").write_text(text)
    (problem,) = load(find(f"{folder}:sums")).problems
    assert problem.messages[1]["content"] == "1+1 In \\boxed{}."
