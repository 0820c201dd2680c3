"""Problems of benchmarks: published files, users' files, prompts, gold answers."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from targetsft_jax.evaluation.benchmarks import BENCHMARKS, find, load
from targetsft_jax.evaluation.benchmarks.benchmark import INSTRUCTION

PUBLISHED = {
    "math500": "math500",
    "olympiadbench": "olympiadbench",
    "gsm8k": "gsm8k/test.jsonl",
    "svamp": "svamp/svamp.jsonl",
    "aqua_rat": "aqua_rat",
    "medqa": "medqa_us_4opt/test.jsonl.gz",
    "medqa_5opt": "medqa_us_5opt/test.jsonl.gz",
    "medmcqa": "medmcqa",
    "pubmedqa": "pubmedqa",
    "mmlu_medical": "mmlu_medical/test.jsonl",
    "mmlu_pro_medical": "mmlu_pro_medical/test.jsonl.gz",
    "medxpertqa": "medxpertqa_text/test_subset.jsonl.gz",
}


def test_prompts_are_the_published_ones(shared):
    files = {name: str(shared / "data" / PUBLISHED[name]) for name in PUBLISHED}
    svamp = load(BENCHMARKS["svamp"], path=files["svamp"], limit=1).problems[0]
    assert svamp.messages[0]["content"] == (
        "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on "
        "each pack. How much do you have to pay to buy each pack?\n" + INSTRUCTION
    )
    assert svamp.answer == "51"
    (mmlu,) = load(
        BENCHMARKS["mmlu_medical"], path=files["mmlu_medical"], limit=1
    ).problems
    assert mmlu.messages[0]["content"] == (
        "A lesion causing compression of the facial nerve at the stylomastoid foramen "
        "will cause ipsilateral\n"
        "A. paralysis of the facial muscles.\n"
        "B. paralysis of the facial muscles and loss of taste.\n"
        "C. paralysis of the facial muscles, loss of taste and lacrimation.\n"
        "D. paralysis of the facial muscles, loss of taste, lacrimation and decreased "
        "salivation.\n" + INSTRUCTION
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_yield_all_problems(shared, name):
    benchmark = BENCHMARKS[name]
    loaded = load(benchmark, path=str(shared / "data" / PUBLISHED[name]))
    count = len(loaded.problems)
    if name == "medxpertqa":
        assert loaded.size() == "1,449 of 2,450 published problems"
    else:
        assert count == benchmark.published_size
        assert loaded.size() == f"{count:,} problems"
    assert len({problem.id for problem in loaded.problems}) == count
    for problem in loaded.problems:
        turn = problem.messages[-1]["content"]
        assert turn.endswith(INSTRUCTION)
        assert bool(problem.options) == (benchmark.grader == "choice")
        if problem.options:
            assert problem.answer in problem.options
            assert all(f"\n{a}. {t}" in turn for a, t in problem.options.items())


def _rows(path: Path, *rows: dict) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def _benchmark(tmp_path: Path, text: str, *rows: dict):
    _rows(tmp_path / "rows.jsonl", *rows)
    (tmp_path / "mine.yaml").write_text(text)
    return find(str(tmp_path / "mine.yaml"))


def test_a_prompt_is_filled_once(tmp_path):
    """Braces and holes in a question are text."""
    benchmark = _benchmark(
        tmp_path,
        "data: {source: jsonl, path: rows.jsonl}\n"
        'grader: math\nsystem: Be brief.\nprompt: "Q: {question}\\nA:"\n',
        {"question": "Is {options} = \\frac{1}{2} {question}?", "answer": "1"},
    )
    (problem,) = load(benchmark).problems
    assert problem.messages == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": "Q: Is {options} = \\frac{1}{2} {question}?\nA:",
        },
    ]
    assert (problem.answer, problem.id, problem.source) == ("1", "rows.jsonl:1", "mine")


@pytest.mark.parametrize(
    "options, answer, expected",
    [
        ({"options": ["x", "y", "z"]}, "B", "B"),
        ({"options": ["x", "y", "z"]}, 2, "C"),
        ({"options": ["x", "y", "z"]}, "y", "B"),
        ({"options": {"A": "x", "B": "y", "C": "z", "D": None}}, "C", "C"),
        # A number among the options is their text, not an index.
        ({"options": ["1", "0", "2"]}, "1", "A"),
    ],
    ids=str,
)
def test_gold_answers_of_options(tmp_path, options, answer, expected):
    benchmark = _benchmark(
        tmp_path,
        "data: {source: jsonl, path: rows.jsonl}\ngrader: choice\noptions: options\n",
        {"question": "q", "answer": answer, **options},
    )
    (problem,) = load(benchmark).problems
    assert problem.answer == expected


def test_options_of_several_fields(tmp_path):
    """The shape question, A to J, answer; a row may have fewer options."""
    benchmark = _benchmark(
        tmp_path,
        "data: {source: jsonl, path: rows.jsonl}\ngrader: choice\n"
        "options: [A, B, C, D]\n",
        {"question": "q", "A": "a1", "B": "b1", "C": "", "answer": "B"},
    )
    (problem,) = load(benchmark).problems
    assert problem.options == {"A": "a1", "B": "b1"}


def test_shuffled_options_keep_the_gold_text(tmp_path):
    rows = [
        {"question": f"q{n}", "options": list("vwxyz"), "answer": "x"}
        for n in range(20)
    ]
    text = (
        "data: {source: jsonl, path: rows.jsonl}\ngrader: choice\noptions: options\n"
        "shuffle_options: 3\n"
    )
    benchmark = _benchmark(tmp_path, text, *rows)
    problems = load(benchmark).problems
    assert all(p.options[p.answer] == "x" for p in problems)
    assert len({tuple(p.options.values()) for p in problems}) > 5
    assert [p.options for p in load(benchmark).problems] == [
        p.options for p in problems
    ]


@pytest.mark.parametrize(
    "row, parts",
    [
        ({"question": "q"}, ("rows.jsonl:1", "'answer' is missing")),
        ({"question": "", "answer": "1"}, ("rows.jsonl:1", "is empty")),
        ({"question": "q", "answer": ""}, ("rows.jsonl:1", "is empty")),
    ],
    ids=str,
)
def test_unusable_rows_are_named(tmp_path, row, parts):
    benchmark = _benchmark(tmp_path, "data: {source: jsonl, path: rows.jsonl}\n", row)
    with pytest.raises(ValueError) as error:
        load(benchmark)
    for part in parts:
        assert part in str(error.value)


def test_a_gold_answer_that_the_grader_refuses_is_named(tmp_path, monkeypatch):
    def refuse(grader, gold, options):
        raise ValueError(f"not parsed as {grader}")

    module = sys.modules[load.__module__]  # The package's `load` is the function.
    monkeypatch.setattr(module, "check_gold", refuse)
    row = {"question": "q", "answer": "\\frac{1}{"}
    benchmark = _benchmark(tmp_path, "data: {source: jsonl, path: rows.jsonl}\n", row)
    with pytest.raises(ValueError, match=r"rows.jsonl:1: .*frac.*not parsed as math"):
        load(benchmark)


def test_a_gold_letter_without_its_option_is_named(tmp_path):
    text = "data: {source: jsonl, path: rows.jsonl}\ngrader: choice\noptions: options\n"
    row = {"question": "q", "options": ["x", "y"], "answer": "C"}
    with pytest.raises(ValueError, match=r"rows.jsonl:1.*'C'; expected one of the let"):
        load(_benchmark(tmp_path, text, row))


def test_equal_ids_and_empty_sets_are_refused(tmp_path):
    row = {"question": "q", "answer": "1", "key": 7}
    text = "data: {source: jsonl, path: rows.jsonl}\nid: key\n"
    with pytest.raises(ValueError, match=r"rows.jsonl:2.*the id '7' is that of .*:1"):
        load(_benchmark(tmp_path, text, row, row))
    with pytest.raises(ValueError, match="mine has no problem left of 0 rows"):
        load(_benchmark(tmp_path, text))


def test_rows_are_filtered_and_limited(tmp_path):
    text = "data: {source: jsonl, path: rows.jsonl, where: {kind: hard}}\n"
    rows = [
        {"question": f"q{n}", "answer": "1", "kind": "hard" if n % 2 else "easy"}
        for n in range(6)
    ]
    benchmark = _benchmark(tmp_path, text, *rows)
    loaded = load(benchmark)
    assert [p.id for p in loaded.problems] == [f"rows.jsonl:{n}" for n in (2, 4, 6)]
    assert (loaded.report.rows, loaded.report.filtered) == (6, 3)
    assert (
        len(load(benchmark, limit=2).problems) == 2 and load(benchmark, limit=2).limited
    )


def test_another_file_replaces_the_source(tmp_path):
    text = "data: {source: jsonl, path: rows.jsonl}\n"
    benchmark = _benchmark(tmp_path, text, {"question": "q", "answer": "1"})
    other = _rows(tmp_path / "other.jsonl.gz", {"question": "r", "answer": "2"})
    assert load(benchmark, path=other).problems[0].answer == "2"
    with pytest.raises(ValueError, match="absent.jsonl"):
        load(benchmark, path=str(tmp_path / "absent.jsonl"))


def test_ids_are_those_of_a_built_data_set(tmp_path):
    row = {"question": "q", "answer": "so\n#### 1"}
    path = _rows(tmp_path / "any.jsonl", row, row)
    for place in (path, _rows(tmp_path / "test.jsonl", row, row) and str(tmp_path)):
        problems = load(BENCHMARKS["gsm8k"], path=place).problems
        assert [problem.id for problem in problems] == ["test/0", "test/1"]


def test_a_file_of_another_benchmark_is_refused(tmp_path):
    other = _rows(tmp_path / "other.jsonl", {"question": "r", "answer": "2"})
    with pytest.raises(ValueError, match=r"other.jsonl:1.*'problem' is missing"):
        load(BENCHMARKS["math500"], path=other)
