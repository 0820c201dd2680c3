"""Every entry of the catalogue, on files in the layouts of its publisher.

The rows are written for these tests; tests that take `shared` read published files.
"""

import gzip
import json
from pathlib import Path

import pytest
from support.published import PUBLISHED, write
from support.tables import load_all

from targetsft_jax.data.catalogue import CATALOGUE, builder
from targetsft_jax.data.catalogue.entry import FIELDS
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.records import problems


@pytest.mark.parametrize(
    "name, file, row, expected", PUBLISHED, ids=[f"{n}-{f}" for n, f, _, _ in PUBLISHED]
)
def test_an_entry_reads_its_publishers_layout(tmp_path, name, file, row, expected):
    write(tmp_path / "from" / file, [row])
    built = builder.build(name, str(tmp_path), str(tmp_path / "from"))
    (split,) = built.splits
    ((origin, example),) = builder.read(built, split)
    assert origin == f"{name}/{split}:1"
    assert tuple(sorted(example)) == tuple(sorted(FIELDS))
    assert example == example | expected


def test_every_entry_has_a_case_and_a_description():
    assert {name for name, *_ in PUBLISHED} == set(CATALOGUE)
    for dataset in CATALOGUE.values():
        assert dataset.licence and dataset.homepage.startswith("https://")
        assert dataset.hub.count("/") == 1
        assert all(layout.example.__doc__ for layout in dataset.layouts)


def test_published_pubmedqa_is_read_completely(shared, tmp_path):
    """A single JSON object, pmid -> fields, as in its repository."""
    with gzip.open(shared / "data/pubmedqa/pqal.jsonl.gz") as file:
        rows = {row["pmid"]: row for row in map(json.loads, file)}
    (tmp_path / "ori_pqal.json").write_text(json.dumps(rows))
    built = builder.build("pubmedqa", str(tmp_path / "built"), str(tmp_path))
    examples = [example for _, example in builder.read(built, "test")]
    answers = [row["final_decision"] for row in rows.values()]
    assert [e["options"][ord(e["answer"]) - ord("A")] for e in examples] == answers
    assert [e["id"] for e in examples] == list(rows)


@pytest.mark.sweep(4)
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
def test_published_files_are_read_completely(
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
    examples = problems(config)
    assert len(examples) == rows
    assert first is None or examples[0].answer == first
    records, report = load_all(config)
    assert len(records) == report.rows == rows and report.bad == 0
    assert len({r.id for r in records}) == rows
