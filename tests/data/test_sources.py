"""Tables and folders are read as lines are: streamed, each row with file and row."""

import dataclasses
import gzip
import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from targetsft_jax.data.config import (
    DataConfig,
    FieldMap,
    SourceConfig,
    SyntheticConfig,
)
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.records import load_records, problems
from targetsft_jax.data.sources import read_arrow, read_files, read_parquet

ROWS = [
    {
        "question": f"q{i}",
        "turns": [{"role": "user", "content": f"q{i}"}],
        "options": {"A": "yes", "B": None},
        "contexts": ["one", "two"],
        "n": i,
    }
    for i in range(2500)
]
QA = FieldMap(prompt="{contexts} {question}", response="options.A")


def write_parquet(path, rows=ROWS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return str(path)


def write_arrow(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)
    return str(path)


def saved(folder, splits):
    """What `DatasetDict.save_to_disk` writes, of what we read."""
    for split, shards in splits.items():
        files = []
        for i, rows in enumerate(shards):
            name = f"data-{i:05d}-of-{len(shards):05d}.arrow"
            write_arrow(folder / split / name, rows)
            files.append({"filename": name})
        state = {"_data_files": files, "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
    dictionary = {"splits": list(splits)}
    (folder / "dataset_dict.json").write_text(json.dumps(dictionary))
    return DataConfig(source="hf_dataset", path=str(folder), fields=QA)


def loaded(config):
    records, report = load_records(config)
    return list(records), report


@pytest.mark.parametrize(
    "write, read, name",
    [
        (write_parquet, read_parquet, "a.parquet"),
        (write_arrow, read_arrow, "a.arrow"),
    ],
)
def test_tables_give_nested_rows_and_their_numbers(tmp_path, write, read, name):
    path = write(tmp_path / name)
    found = list(read([path, path]))
    assert [row for _, row in found] == ROWS + ROWS
    assert [origin for origin, _ in found[-2:]] == [f"{path}:2499", f"{path}:2500"]
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=rf"{name}: not a complete .* file .*download it"
    ):
        list(read(path))
    with pytest.raises(ValueError, match="no such file; check data.path"):
        list(read(str(tmp_path / "none")))


def test_a_table_is_not_held_whole(tmp_path):
    """Groups of rows are read one by one, and let go."""
    rng = random.Random(0)
    rows = [{"text": rng.randbytes(500).hex(), "n": i} for i in range(20_000)]
    path = write_parquet(tmp_path / "big.parquet", rows, row_group_size=1000)
    size = Path(path).stat().st_size
    assert size > 10e6
    before = pyarrow.total_allocated_bytes()
    held = [pyarrow.total_allocated_bytes() - before for _ in read_parquet(path)]
    assert 0 < max(held) < size / 3


def test_parquet_becomes_records(tmp_path):
    path = write_parquet(tmp_path / "a.parquet")
    config = DataConfig(
        source="parquet", path=path, fields=QA, where={"n": {"min": 3, "max": 5}}
    )
    records, report = loaded(config)
    assert [r.messages[0]["content"] for r in records] == [
        f"one\ntwo q{i}" for i in (3, 4, 5)
    ]
    assert [r.id for r in records] == ["a.parquet:4", "a.parquet:5", "a.parquet:6"]
    assert (report.rows, report.filtered) == (2500, 2497)
    null = FieldMap(prompt="question", response="options.B")
    with pytest.raises(ValueError, match=r"a.parquet:4: field 'options.B' is NoneType"):
        loaded(dataclasses.replace(config, fields=null))


def test_a_folder_of_save_to_disk(tmp_path):
    config = saved(
        tmp_path, {"train": [ROWS[:10], ROWS[10:15]], "validation": [ROWS[15:18]]}
    )
    assert [r.messages[0]["content"][-3:] for r in loaded(config)[0]][-2:] == [
        "q13",
        "q14",
    ]
    other = dataclasses.replace(config, split="validation")
    assert loaded(other)[1].rows == 3
    assert [p.answer for p in problems(other_with_answer(other))] == ["15", "16", "17"]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation"):
        loaded(dataclasses.replace(config, split="dev"))
    single = dataclasses.replace(config, path=str(tmp_path / "train"))
    assert loaded(single)[1].rows == 15
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        loaded(dataclasses.replace(single, split="validation"))
    (tmp_path / "train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="data-00001-of-00002.arrow is missing"):
        loaded(config)


def other_with_answer(config):
    return dataclasses.replace(config, fields=FieldMap(prompt="question", answer="n"))


def test_a_folder_in_the_hubs_layout(tmp_path):
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", ROWS[:4])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", ROWS[4:6])
    with gzip.open(tmp_path / "data/test.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROWS[6]))
    config = DataConfig(source="hf_dataset", path=str(tmp_path), fields=QA)
    assert loaded(config)[1].rows == 6
    assert loaded(dataclasses.replace(config, split="test"))[1].rows == 1
    with pytest.raises(ValueError, match="no split 'dev'; it has test, train"):
        loaded(dataclasses.replace(config, split="dev"))
    write_parquet(tmp_path / "more/train-00000-of-00001.parquet", ROWS[:4])
    with pytest.raises(ValueError, match="the split is in several folders"):
        loaded(config)
    (tmp_path / "more/train-00000-of-00001.parquet").unlink()
    (tmp_path / "data/train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="train-00000-of-00002.parquet is missing: 1"):
        loaded(config)
    with pytest.raises(ValueError, match="expected a folder written by save_to_disk"):
        loaded(dataclasses.replace(config, path=str(tmp_path / "more")))


def test_json_files_are_lists_or_objects_by_id(tmp_path):
    path = tmp_path / "a.json"
    for text, rows in (
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"x": {"a": 1}, "y": {"a": 2}}', [{"id": "x", "a": 1}, {"id": "y", "a": 2}]),
        ('{"a": 1}\n{"a": 2}\n', [b'{"a": 1}\n', b'{"a": 2}\n']),
        ('{"a": 1}', [{"a": 1}]),
    ):
        path.write_text(text)
        found = list(read_files([str(path)]))
        assert [row for _, row in found] == rows
        assert found[0][0] == f"{path}:1"
    path.write_text('[{"a": 1}, {"a"')
    with pytest.raises(ValueError, match="a.json: not JSON"):
        list(read_files([str(path)]))


def test_a_mixture_streams_its_sources_one_after_another(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ROWS[:5])
    config = DataConfig(
        mixture=[
            SourceConfig(name="sums", synthetic=SyntheticConfig(examples=9), limit=4),
            SourceConfig(source="parquet", path=path, fields=QA, where={"n": [1, 2]}),
        ]
    )
    records, report = loaded(config)
    assert [r.source for r in records] == ["sums"] * 4 + ["a.parquet"] * 2
    assert report.rows == 9 and report.filtered == 3 and report.limited
    assert report.by_source == {
        "sums": {"rows": 4},
        "a.parquet": {"rows": 5, "filtered": 3},
    }


def test_identity_follows_every_byte_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    config = SourceConfig(source="jsonl", path=str(path))
    first = content_hash(config)
    moved = tmp_path / "moved" / "b.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert content_hash(dataclasses.replace(config, path=str(moved))) == first
    assert content_hash(dataclasses.replace(config, where={"a": "1"}, limit=3)) == first
    both = dataclasses.replace(config, path=[str(path), str(moved)])
    assert content_hash(both) != first
    path.write_bytes(b'{"a": 2}\n')
    assert content_hash(config) != first
    made = SourceConfig()
    seeds = SourceConfig(synthetic=SyntheticConfig(seed=1))
    assert content_hash(made) == content_hash(made) != content_hash(seeds)
    assert content_hash(DataConfig(mixture=[made, config])) != content_hash(
        DataConfig(mixture=[config, made])
    )
    with pytest.raises(ValueError, match="no such file"):
        content_hash(dataclasses.replace(config, path=str(tmp_path / "none.jsonl")))
    folder = saved(tmp_path / "hf", {"train": [ROWS[:2]], "test": [ROWS[2:4]]})
    assert content_hash(folder) != content_hash(
        dataclasses.replace(folder, split="test")
    )
