"""Every entry of the catalogue, on files laid out as its publisher's, and the builder.

The rows are written for these tests; tests that take `shared` read published files.
"""

import dataclasses
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.catalogue import CATALOGUE, builder, conversation
from targetsft_jax.data.catalogue.entry import FIELDS, boxed_answer, example
from targetsft_jax.data.config import DataConfig, FieldMap
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.records import load_records, problems
from targetsft_jax.datasets import main

BOXED = r"So it is $\boxed{\frac{1}{2}}$."
FOUR = {"A": "iron", "B": "zinc", "C": "lead", "D": "tin"}
MCQ = {"question": "Which metal?", "options": FOUR, "answer": "zinc"}
COP = {
    **{"id": "u-1", "question": "Which metal?", "choice_type": "single"},
    **{"opa": "iron", "opb": "zinc", "opc": "lead", "opd": "tin"},
    **{"exp": "Zinc it is.", "subject_name": "Chemistry", "topic_name": None},
}
PUBMED = {
    **{"pubid": 7, "question": "Does it?", "long_answer": "It does."},
    **{"context": {"contexts": ["One.", "Two."], "labels": ["A", "B"]}},
    "final_decision": "yes",
}
TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
R1 = {
    **{"problem": "1/2?", "solution": BOXED, "answer": "1/2", "uuid": "u-2"},
    **{"source": "olympiads", "messages": TURNS},
    "generations": ["<think>a</think>no", "<think>b</think>yes", "c", "d"],
    "is_reasoning_complete": [True, False, True, True],
    "correctness_math_verify": [False, True, False, False],
    "correctness_llama": [False, False, True, True],
}

# By data set: a file in the layout of its publisher, a row, and what it becomes.
PUBLISHED = [
    (
        "numina_math_cot",
        "data/train-00000-of-00001.parquet",
        {"source": "amc", "problem": "1/2?", "solution": BOXED, "messages": TURNS},
        {"source": "amc", "reasoning": BOXED, "answer": r"\frac{1}{2}"},
    ),
    (
        "openr1_math",
        "data/train-00000-of-00001.parquet",
        R1,
        {"source": "olympiads", "id": "u-2", "reasoning": "c", "answer": "1/2"},
    ),
    (
        "gsm8k",
        "main/train-00000-of-00001.parquet",
        {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"id": "train/0", "reasoning": "1+1=<<1+1=2>>2", "answer": "2"},
    ),
    (
        "gsm8k",
        "grade_school_math/data/test.jsonl",
        {"question": "1+1?", "answer": "1+1=2\n#### 2"},
        {"id": "test/0", "answer": "2"},
    ),
    (
        "math",
        "algebra/test-00000-of-00001.parquet",
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": BOXED},
        {"source": "Algebra", "reasoning": BOXED, "answer": r"\frac{1}{2}"},
    ),
    (
        "math",
        "MATH/train/algebra/1.json",
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": BOXED},
        {"id": "train/0", "answer": r"\frac{1}{2}"},
    ),
    (
        "math500",
        "test.jsonl",
        {
            **{"problem": "1/2?", "solution": BOXED, "answer": "1/2", "level": 2},
            **{"subject": "Algebra", "unique_id": "test/algebra/1.json"},
        },
        {"source": "Algebra", "id": "test/algebra/1.json", "answer": "1/2"},
    ),
    (
        "minerva_math",
        "data/test-00000-of-00001.parquet",
        {"question": "1/2?", "answer": "0.5"},
        {"id": "test/0", "answer": "0.5"},
    ),
    (
        "minerva_math",
        "minerva_math/test.jsonl",
        {"problem": "1/2?", "solution": BOXED, "type": "Astronomy", "idx": 0},
        {"source": "Astronomy", "answer": r"\frac{1}{2}"},
    ),
    (
        "olympiadbench",
        "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
        {
            **{"id": 1606, "subfield": "Algebra", "context": None, "question": "?"},
            **{"solution": ["s"], "final_answer": ["$1,2$"], "unit": None},
        },
        {"source": "Algebra", "id": "1606", "reasoning": "s", "answer": "1,2"},
    ),
    (
        "aime24",
        "data/test-00000-of-00001.parquet",
        {"id": 60, "problem": "?", "solution": r"\boxed{204}", "url": "u"},
        {"id": "60", "reasoning": "", "answer": "204"},
    ),
    (
        "amc23",
        "data/test-00000-of-00001.parquet",
        {"id": 0, "question": "?", "answer": 27.0, "url": "u"},
        {"id": "0", "answer": "27.0"},
    ),
    (
        "m23k",
        "data/train-00000-of-00001.parquet",
        {
            **{"prompt": "Which?\nA. iron\nB. zinc", "reasoning": "Hm.", "source": "x"},
            **{"distilled_answer_string": "Zinc.", "answer_letter": "B"},
        },
        {
            "question": "Which?\nA. iron\nB. zinc",
            "options": [],
            "reasoning": "<think>\nHm.\n</think>\n\nZinc.",
            "answer": "B",
        },
    ),
    (
        "medqa",
        "phrases_no_exclude_test.jsonl",
        MCQ | {"answer_idx": "B", "meta_info": "step1", "metamap_phrases": ["x"]},
        {"source": "step1", "options": [*FOUR.values()], "answer": "B"},
    ),
    (
        "medmcqa",
        "data/validation-00000-of-00001.parquet",
        COP | {"cop": 1},
        {"id": "u-1", "options": [*FOUR.values()], "answer": "B"},
    ),
    (
        "medmcqa",
        "dev.json",
        COP | {"cop": 1, "exp": None},
        {"reasoning": "", "answer": "A"},
    ),
    (
        "pubmedqa",
        "pqa_labeled/train-00000-of-00001.parquet",
        PUBMED,
        {
            **{"id": "7", "question": "One.\nTwo.\n\nDoes it?", "answer": "A"},
            **{"options": ["yes", "no", "maybe"], "reasoning": "It does."},
        },
    ),
    (
        "mmlu_pro_medical",
        "data/test-00000-of-00001.parquet",
        {
            **{"question_id": 5, "question": "Which?", "options": ["iron", "zinc"]},
            **{"answer": "B", "answer_index": 1, "category": "health"},
        },
        {"source": "health", "id": "5", "options": ["iron", "zinc"], "answer": "B"},
    ),
    (
        "medxpertqa",
        "Text/test.jsonl",
        {
            **{"id": "Text-0", "label": "B", "options": FOUR, "body_system": "Blood"},
            "question": "Which?\nAnswer Choices: (A) iron (B) zinc (C) lead (D) tin",
        },
        {"id": "Text-0", "question": "Which?", "source": "Blood", "answer": "B"},
    ),
]


def write(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))


def loaded(config):
    records, report = load_records(config)
    return list(records), report


@pytest.mark.parametrize(
    "name, file, row, becomes", PUBLISHED, ids=[f"{n}-{f}" for n, f, _, _ in PUBLISHED]
)
def test_an_entry_reads_its_publishers_layout(tmp_path, name, file, row, becomes):
    write(tmp_path / "from" / file, [row])
    built = builder.build(name, str(tmp_path), str(tmp_path / "from"))
    (split,) = built.splits
    ((origin, found),) = builder.read(built, split)
    assert origin == f"{name}/{split}:1"
    assert tuple(sorted(found)) == tuple(sorted(FIELDS))
    assert found == found | becomes


def test_every_entry_is_tried_above_and_says_what_it_is():
    assert {name for name, *_ in PUBLISHED} == set(CATALOGUE)
    for dataset in CATALOGUE.values():
        assert dataset.licence and dataset.homepage.startswith("https://")
        assert dataset.hub.count("/") == 1
        assert all(layout.example.__doc__ for layout in dataset.layouts)


@pytest.fixture
def gsm8k(tmp_path):
    """Three rows of the official layout."""
    rows = [{"question": f"{i}+1?", "answer": f"so\n#### {i + 1}"} for i in range(3)]
    write(tmp_path / "from/train.jsonl", rows)
    return DataConfig(
        source="tfds",
        dataset="gsm8k",
        data_dir=str(tmp_path / "built"),
        path=str(tmp_path / "from"),
    )


def test_a_run_builds_on_first_use_and_then_reads_what_is_built(gsm8k):
    records, report = loaded(gsm8k)
    assert [r.id for r in records] == ["train/0", "train/1", "train/2"]
    assert {r.source for r in records} == {"gsm8k"}
    assert records[0].messages == [
        {"role": "user", "content": "0+1?"},
        {"role": "assistant", "content": "so\n\nThe answer is \\boxed{1}."},
    ]
    assert [p.answer for p in problems(gsm8k)] == ["1", "2", "3"]
    shutil.rmtree(gsm8k.path)
    assert loaded(gsm8k)[0] == records
    some = dataclasses.replace(gsm8k, where={"answer": ["2", "3"]}, limit=1)
    assert [r.id for r in loaded(some)[0]] == ["train/1"]
    own = FieldMap(prompt="Q: {question} {options}", response="{reasoning}!")
    own_words = loaded(dataclasses.replace(gsm8k, fields=own))[0][2].messages
    assert [m["content"] for m in own_words] == ["Q: 2+1? ", "so!"]
    with pytest.raises(ValueError, match=r"no split 'test', only train: .*from had no"):
        loaded(dataclasses.replace(gsm8k, split="test"))


def test_options_are_lettered_below_the_question():
    row = conversation.as_row(example("Which?", "B", options=["iron", "zinc"]))
    assert row["prompt"] == "Which?\nA. iron\nB. zinc"
    assert row["response"] == "The answer is \\boxed{B}."


@pytest.mark.parametrize(
    "reasoning, answer, added",
    [
        (r"So \boxed{4}.", "4", False),
        (r"So \boxed 4", "4", False),
        ("It is 4.", "4", False),
        ("It is $4$.", "4", False),
        ("It is 14.", "4", True),
        ("It is 4, not 5.", "4", True),
        (r"So \boxed{5}, not", "4", True),
        ("The answer is (B).", "B", False),
        ("Zinc.", "B", True),
        ("A proof.", "", False),
    ],
)
def test_the_answer_follows_where_the_reasoning_does_not_end_in_it(
    reasoning, answer, added
):
    row = conversation.as_row(example("?", answer, reasoning=reasoning))
    ends = f"\n\nThe answer is \\boxed{{{answer}}}."
    assert row["response"] == reasoning + (ends if added else "")


def test_the_last_box_that_closes_is_the_answer():
    assert boxed_answer(r"\boxed{1} then \boxed{\{2\}} and \boxed{3") == r"\{2\}"
    assert boxed_answer(r"$\boxed 9$.") == "9"
    assert boxed_answer("none") == ""


def test_bad_rows_are_all_named_and_nothing_is_built(gsm8k):
    file = Path(gsm8k.path) / "train.jsonl"
    good = file.read_text()
    bad = ['{"question": "?", "answer": "2"}', '{"question": "?"}', "[]"]
    file.write_text("\n".join([good, *bad]))
    with pytest.raises(ValueError, match="gsm8k was not built: 3 rows") as error:
        builder.build("gsm8k", gsm8k.data_dir, gsm8k.path)
    message = str(error.value)
    assert f"{file}:4: answer has no '#### …' at its end" in message
    assert f"{file}:5: field 'answer' is missing; it has question" in message
    assert f"{file}:6: a JSON list; expected an object" in message
    assert builder.find_built("gsm8k", gsm8k.data_dir) is None
    assert not list(Path(gsm8k.data_dir).iterdir())
    # One that is built stays as it is where the next one fails.
    file.write_text(good)
    before = builder.build("gsm8k", gsm8k.data_dir, gsm8k.path)
    file.write_text(bad[0])
    with pytest.raises(ValueError, match="gsm8k was not built"):
        builder.build("gsm8k", gsm8k.data_dir, gsm8k.path)
    assert len(list(builder.read(before, "train"))) == 3
    file.write_text("\n".join([good] * 2))
    assert builder.build("gsm8k", gsm8k.data_dir, gsm8k.path).splits == {"train": 6}


def test_processes_may_build_it_at_once(gsm8k):
    script = (
        "from targetsft_jax.data.config import *\n"
        "from targetsft_jax.data.records import load_records\n"
        f"records, _ = load_records({gsm8k!r})\n"
        "print(len(list(records)))\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in running] == ["3\n"] * 2
    assert [p.name for p in Path(gsm8k.data_dir).iterdir()] == ["gsm8k"]


def test_half_files_are_refused(tmp_path):
    row = {"source": "amc", "problem": "?", "solution": BOXED}
    write(tmp_path / "data/train-00001-of-00003.parquet", [row])
    with pytest.raises(ValueError, match="train-00000-of-00003.parquet is missing: 1"):
        builder.build("numina_math_cot", str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="has no file of gsm8k; expected some of gra"):
        builder.build("gsm8k", str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="no such folder; expected the files of gsm8k"):
        builder.build("gsm8k", str(tmp_path), str(tmp_path / "none"))
    with pytest.raises(ValueError, match="'gsm9k' is not in the catalogue"):
        builder.build("gsm9k", str(tmp_path), str(tmp_path))


def test_a_damaged_set_is_named(gsm8k):
    first = content_hash(gsm8k)
    built = builder.find_built("gsm8k", gsm8k.data_dir)
    (file,) = built.files["train"]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert content_hash(gsm8k) != first
    with pytest.raises(ValueError, match="0 examples of train, not 3; build it again"):
        loaded(gsm8k)
    file.unlink()
    with pytest.raises(ValueError, match=r"is damaged \(gsm8k-train.* is missing\)"):
        loaded(gsm8k)


def test_rows_that_the_entry_leaves_out_are_counted(tmp_path):
    _, file, row, _ = next(p for p in PUBLISHED if p[0] == "mmlu_pro_medical")
    write(tmp_path / "from" / file, [row, row | {"category": "law"}])
    built = builder.build("mmlu_pro_medical", str(tmp_path), str(tmp_path / "from"))
    assert built.splits == {"test": 1} and built.left_out == {"test": 1}


def test_files_come_from_one_commit_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    write(tmp_path / "hub/main/test-00000-of-00001.parquet", [PUBLISHED[2][2]])

    class Api:
        def dataset_info(self, repo):
            names = ["README.md", "main/test-00000-of-00001.parquet", "socratic/x"]
            files = [type("Sibling", (), {"rfilename": name}) for name in names]
            return type("Info", (), {"sha": "c0ffee", "siblings": files})

    def download(repo, path, *, repo_type, revision):
        asked.append((repo, path, repo_type, revision))
        return str(tmp_path / "hub" / path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    built = builder.build("gsm8k", str(tmp_path / "built"))
    assert built.origin == "openai/gsm8k@c0ffee" and built.splits == {"test": 1}
    file = "main/test-00000-of-00001.parquet"
    assert asked == [("openai/gsm8k", file, "dataset", "c0ffee")]


def test_offline_a_sentence_says_what_to_do(tmp_path, capsys):
    code = main(["build", "gsm8k", "--data-dir", str(tmp_path)])
    said = capsys.readouterr().err
    assert code == 1
    assert (
        "gsm8k cannot be downloaded from openai/gsm8k on the hub (OfflineMode" in said
    )
    assert "--manual-dir" in said and len(said.splitlines()) == 1


def test_the_command_builds_and_lists(gsm8k, capsys):
    where = ["--data-dir", gsm8k.data_dir]
    assert main(["build", "gsm8k", "--manual-dir", gsm8k.path, *where]) == 0
    said = capsys.readouterr().out
    assert "gsm8k/train: 3 examples\n" in said and f"from {gsm8k.path}" in said
    assert main(["list", *where]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in CATALOGUE)
    assert (
        "built: train 3; in" in said and said.count("not built") == len(CATALOGUE) - 1
    )


def test_tfds_itself_reads_what_is_built(gsm8k):
    """Without TensorFlow, and by its own description of the features."""
    loaded(gsm8k)
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"b = tfds.builder_from_directory({gsm8k.data_dir + '/gsm8k/1.0.0'!r})\n"
        "rows = b.as_data_source('train')\n"
        "print(len(rows), rows[2]['question'].decode(), rows[2]['answer'].decode())\n"
        "print('tensorflow' in sys.modules, b.info.homepage)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == [
        *("3", "2+1?", "3", "False"),
        "https://github.com/openai/grade-school-math",
    ]


def test_published_pubmedqa_is_read_whole(shared, tmp_path):
    """By pmid, as its repository has it."""
    with gzip.open(shared / "data/pubmedqa/pqal.jsonl.gz") as file:
        rows = {row["pmid"]: row for row in map(json.loads, file)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(rows))
    built = builder.build("pubmedqa", str(tmp_path / "built"), str(tmp_path))
    found = [example for _, example in builder.read(built, "test")]
    answers = [row["final_decision"] for row in rows.values()]
    assert [e["options"][ord(e["answer"]) - ord("A")] for e in found] == answers
    assert [e["id"] for e in found] == list(rows)


@pytest.mark.parametrize(
    "name, file, split, rows, first",
    [
        ("gsm8k", "gsm8k/train.jsonl.gz", "train", 7473, "72"),
        ("gsm8k", "gsm8k/test.jsonl", "test", 1319, "18"),
        ("math", "math/train.jsonl.gz", "train", 7498, "0"),
        ("math", "math/test.jsonl.gz", "test", 5000, "2"),
        ("math500", "math500/test.jsonl", "test", 500, None),
        ("olympiadbench", "olympiadbench/test.jsonl.gz", "test", 675, "2"),
        ("medqa", "medqa_us_4opt/test.jsonl.gz", "test", 1273, "B"),
        ("medmcqa", "medmcqa/dev.jsonl.gz", "validation", 4183, "A"),
        ("mmlu_pro_medical", "mmlu_pro_medical/test.jsonl.gz", "test", 1535, "E"),
        ("medxpertqa", "medxpertqa_text/test_subset.jsonl.gz", "test", 1449, "B"),
    ],
)
def test_published_files_are_read_whole(
    shared, tmp_path, name, file, split, rows, first
):
    plain = Path(file).name.replace("test_subset", "test")
    (tmp_path / plain).symlink_to(shared / "data" / file)
    config = DataConfig(
        source="tfds",
        dataset=name,
        split=split,
        data_dir=str(tmp_path / "built"),
        path=str(tmp_path),
    )
    found = problems(config)
    assert len(found) == rows
    assert first is None or found[0].answer == first
    records, report = loaded(config)
    assert len(records) == report.rows == rows and report.bad == 0
    assert len({r.id for r in records}) == rows
