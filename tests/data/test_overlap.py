"""Repetitions and overlaps, held to cases written out."""

from targetsft_jax.data.overlap import WORDS, Duplicates, Overlap
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


def test_repetitions_are_found_with_what_they_repeat():
    found = scanned(
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
    assert found.conversations.first == [("d", "a"), ("f", "c"), ("g", "a"), ("i", "h")]
    assert (found.conversations.count, found.prompts.count) == (4, 1)
    assert found.prompts.first == [("c", "a")]


def test_only_the_first_cases_are_kept():
    found = scanned(Duplicates(), *(record(str(i), "q", "r") for i in range(100)))
    assert found.conversations.count == 99
    assert found.conversations.first[-1] == ("5", "0")


def test_overlap_is_the_same_question_or_thirty_words_in_a_row():
    problems = [
        Problem([{"role": "user", "content": question}], "", name)
        for name, question in (
            ("short", "How many?"),
            ("long", " ".join(LONG)),
            ("system", "What now?"),
        )
    ]
    inside = " ".join(LONG[5 : 5 + WORDS])
    found = scanned(
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
    assert found.exact.first == [("a", "short"), ("e", "long"), ("g", "system")]
    assert found.shared.first == [("c", "long")]
    assert (found.exact.count, found.shared.count) == (3, 1)


def test_published_sets(shared):
    """MATH's training set against MATH-500, by asking every question for every run."""
    from targetsft_jax.data.config import DataConfig, FieldMap
    from targetsft_jax.data.records import load_records, problems

    def source(name, **fields):
        path = str(shared / "data" / name)
        return DataConfig(source="jsonl", path=path, fields=FieldMap(**fields))

    asked = problems(source("math500/test.jsonl", prompt="problem", answer="answer"))
    train = source("math/train.jsonl.gz", prompt="problem", response="solution")
    records = list(load_records(train)[0])
    found = scanned(Overlap(asked), *records)
    questions = (p.messages[0]["content"].lower().split() for p in asked)
    spaced = "|".join(f" {' '.join(words)} " for words in questions)
    wanted = 0
    for item in records:
        words = item.messages[0]["content"].lower().split()
        ends = range(WORDS, len(words) + 1)
        wanted += any(f" {' '.join(words[n - WORDS : n])} " in spaced for n in ends)
    assert (found.exact.count, found.shared.count) == (0, wanted) and wanted > 0
    itself = Overlap(asked)
    scanned(itself, *(record(p.id, p.messages[0]["content"]) for p in asked))
    assert itself.exact.count == len(asked) == 500
