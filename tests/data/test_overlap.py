"""Duplicates and overlaps, compared with cases written by hand."""

import json

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.overlap import (
    WORDS,
    Duplicates,
    Overlap,
    training_overlaps,
)
from targetsft_jax.data.record import Record
from targetsft_jax.data.records import Problem

LONG = [f"word{i}" for i in range(40)]


def record(name, question, *rest):
    roles = ("user", "assistant") * 5
    turns = [{"role": r, "content": c} for r, c in zip(roles, (question, *rest))]
    return Record(turns, id=name)


def scanned(scan, *records):
    for item in records:
        scan.add(item)
    return scan


def test_duplicates_are_listed_with_the_record_that_they_repeat():
    scan = scanned(
        Duplicates(),
        record("a", "1+1=?", "2"),
        record("b", "1-1=?", "2"),
        record("c", "1+1=?", "two"),
        record("d", " 1+1=?\n", "2"),
        record("e", "1+1=?", "2", "1+1=?", "2"),
        record("f", "1+1=?", "two"),
        record("g", "１+1=?", "2 "),
        record("h", "DOSE?", "ﬁve"),
        record("i", "dose?", "five"),
    )
    assert scan.conversations.first == [("d", "a"), ("f", "c"), ("g", "a"), ("i", "h")]
    assert (scan.conversations.count, scan.prompts.count) == (4, 1)
    assert scan.prompts.first == [("c", "a")]


def test_only_the_first_cases_are_listed():
    scan = scanned(Duplicates(), *(record(str(i), "q", "r") for i in range(100)))
    assert scan.conversations.count == 99
    assert scan.conversations.first[-1] == ("5", "0")


def test_overlap_is_the_same_question_or_thirty_consecutive_words():
    problems = [
        Problem([{"role": "user", "content": question}], "", name)
        for name, question in (
            ("short", "How many?"),
            ("long", " ".join(LONG)),
            ("system", "What now?"),
        )
    ]
    inside = " ".join(LONG[5 : 5 + WORDS])
    scan = scanned(
        Overlap(problems),
        record("a", "how  MANY?", "3"),
        record("b", "How many!", "3"),
        record("c", f"Before {inside} after", "3"),
        record("d", f"Before {' '.join(LONG[5 : 4 + WORDS])} after", "3"),
        record("e", " ".join(LONG), "3"),
        record("f", "Other", inside, "More", "3"),
        record("g", "Other", "yes", "What now?", "3"),
        record("h", " ".join(LONG[:20] + ["x"] + LONG[20:]), "3"),
    )
    assert scan.exact.first == [("a", "short"), ("e", "long"), ("g", "system")]
    assert scan.shared.first == [("c", "long")]
    assert (scan.exact.count, scan.shared.count) == (3, 1)


def test_published_sets(shared):
    """MATH and MATH-500, compared with a search of every run in every question."""
    from targetsft_jax.data.config import DataConfig
    from targetsft_jax.data.fields import FieldMap
    from targetsft_jax.data.records import load_records, problems

    def source(name, **fields):
        path = str(shared / "data" / name)
        return DataConfig(source="jsonl", path=path, fields=FieldMap(**fields))

    questions = problems(
        source("math500/test.jsonl", prompt="problem", answer="answer")
    )
    train = source("math/train.jsonl.gz", prompt="problem", response="solution")
    records = list(load_records(train)[0])
    scan = scanned(Overlap(questions), *records)
    texts = (p.messages[0]["content"].lower().split() for p in questions)
    spaced = "|".join(f" {' '.join(words)} " for words in texts)
    expected = 0
    for item in records:
        words = item.messages[0]["content"].lower().split()
        ends = range(WORDS, len(words) + 1)
        expected += any(f" {' '.join(words[n - WORDS : n])} " in spaced for n in ends)
    assert (scan.exact.count, scan.shared.count) == (0, expected) and expected > 0
    itself = Overlap(questions)
    scanned(itself, *(record(p.id, p.messages[0]["content"]) for p in questions))
    assert itself.exact.count == len(questions) == 500


def test_training_data_that_repeat_a_benchmark_are_counted(tmp_path):
    """Training prompts have the options, the benchmark's question has not."""
    path = tmp_path / "rows.jsonl"
    texts = ["Which?\nA. x\nB. y", "Which? ", "Other?", "Which?\nA. x\nB. y\nThink."]
    rows = [{"prompt": text, "response": "A"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(messages=None, prompt="prompt", response="response"),
    )
    turn = {"role": "user", "content": "Which?\nA. x\nB. y\nThink."}
    problem = Problem([turn], "A", "1", "b", {"A": "x", "B": "y"}, "Which?")
    [overlap] = training_overlaps(config, [[problem]])
    assert overlap.exact.count == 3
