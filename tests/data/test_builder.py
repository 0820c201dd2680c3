"""Data sets are built atomically, read back, and refused when damaged."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from support.published import PUBLISHED, gsm8k_source, write
from support.tables import load_all

from targetsft_jax.data.catalogue import builder
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.records import problems


@pytest.fixture
def gsm8k(tmp_path):
    return gsm8k_source(tmp_path)


def test_a_run_builds_on_first_use_and_reads_the_build_later(gsm8k):
    records, report = load_all(gsm8k)
    assert [r.id for r in records] == ["train/0", "train/1", "train/2"]
    assert {r.source for r in records} == {"gsm8k"}
    assert records[0].messages == [
        {"role": "user", "content": "0+1?"},
        {"role": "assistant", "content": "so\n\nThe answer is \\boxed{1}."},
    ]
    assert [p.answer for p in problems(gsm8k)] == ["1", "2", "3"]
    shutil.rmtree(gsm8k.path)
    assert load_all(gsm8k)[0] == records
    some = dataclasses.replace(gsm8k, where={"answer": ["2", "3"]}, limit=1)
    assert [r.id for r in load_all(some)[0]] == ["train/1"]
    fields = FieldMap(prompt="Q: {question} {options}", response="{reasoning}!")
    turns = load_all(dataclasses.replace(gsm8k, fields=fields))[0][2].messages
    assert [m["content"] for m in turns] == ["Q: 2+1? ", "so!"]
    with pytest.raises(ValueError, match=r"no split 'test', only train: .*from had no"):
        load_all(dataclasses.replace(gsm8k, split="test"))


def test_bad_rows_are_all_named_and_nothing_is_built(gsm8k):
    file = Path(gsm8k.path) / "train.jsonl"
    good = file.read_text()
    bad = ['{"question": "?", "answer": "2"}', '{"question": "?"}', "[]"]
    bad.append('{"question": "?", "answer": NaN}')
    bad.append(r'{"question": "\ud800", "answer": "#### 2"}')
    file.write_text("\n".join([good, *bad]))
    with pytest.raises(ValueError, match="gsm8k was not built: 5 rows") as error:
        builder.build("gsm8k", gsm8k.data_dir, gsm8k.path)
    message = str(error.value)
    assert f"{file}:4: answer has no '#### …' at its end" in message
    assert f"{file}:5: field 'answer' is missing; it has question" in message
    assert f"{file}:6: a JSON list; expected an object" in message
    assert f"{file}:7: a field has another type" in message
    assert "it has answer float, question str" in message
    assert f"{file}:8: the question has an unpaired surrogate" in message
    assert builder.find_built("gsm8k", gsm8k.data_dir) is None
    assert not list(Path(gsm8k.data_dir).iterdir())
    # A failed build leaves the existing one unchanged.
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


def test_a_damaged_set_is_named(gsm8k):
    first = content_hash(gsm8k)
    built = builder.find_built("gsm8k", gsm8k.data_dir)
    (file,) = built.files["train"]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert content_hash(gsm8k) != first
    with pytest.raises(ValueError, match="0 examples of train, not 3; build it again"):
        load_all(gsm8k)
    file.unlink()
    with pytest.raises(ValueError, match=r"is damaged \(gsm8k-train.* is missing\)"):
        load_all(gsm8k)


def test_records_and_descriptions_of_another_writer_are_named(gsm8k):
    load_all(gsm8k)
    built = builder.find_built("gsm8k", gsm8k.data_dir)
    (file,) = built.files["train"]
    file.unlink()
    writer = ArrayRecordWriter(str(file), "group_size:1")
    writer.write(b"\xff\xff")
    writer.close()
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        load_all(gsm8k)
    for text in ("[" * 100_000, '{"splits": [{"shardLengths": [1e999]}]}'):
        (built.folder / "dataset_info.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged .*; build it again"):
            builder.find_built("gsm8k", gsm8k.data_dir)


def test_rows_that_the_entry_leaves_out_are_counted(tmp_path):
    _, file, row, _ = next(p for p in PUBLISHED if p[0] == "mmlu_pro_medical")
    write(tmp_path / "from" / file, [row, row | {"category": "law"}])
    built = builder.build("mmlu_pro_medical", str(tmp_path), str(tmp_path / "from"))
    assert built.splits == {"test": 1} and built.left_out == {"test": 1}


def test_tfds_reads_a_build(gsm8k):
    """Without TensorFlow, from the description of the features in the folder."""
    load_all(gsm8k)
    script = (
        "import sys, tensorflow_datasets as tfds\n"
        f"b = tfds.builder_from_directory({gsm8k.data_dir + '/gsm8k/1.0.0'!r})\n"
        "rows = b.as_data_source('train')\n"
        "print(len(rows), rows[2]['question'].decode(), rows[2]['answer'].decode())\n"
        "print('tensorflow' in sys.modules, b.info.homepage)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [
        *("3", "2+1?", "3", "False"),
        "https://github.com/openai/grade-school-math",
    ]
