"""Splits of folders of the datasets library and of the hub, and their refusals."""

import dataclasses
import gzip
import json

import pytest
from support.tables import QA, ROWS, load_all, save_splits, write_parquet

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.records import problems


def test_a_folder_of_save_to_disk(tmp_path):
    config = save_splits(
        tmp_path, {"train": [ROWS[:10], ROWS[10:15]], "validation": [ROWS[15:18]]}
    )
    assert [r.messages[0]["content"][-3:] for r in load_all(config)[0]][-2:] == [
        "q13",
        "q14",
    ]
    other = dataclasses.replace(config, split="validation")
    assert load_all(other)[1].rows == 3
    assert [p.answer for p in problems(other_with_answer(other))] == ["15", "16", "17"]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation"):
        load_all(dataclasses.replace(config, split="dev"))
    single = dataclasses.replace(config, path=str(tmp_path / "train"))
    assert load_all(single)[1].rows == 15
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        load_all(dataclasses.replace(single, split="validation"))
    (tmp_path / "train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="data-00001-of-00002.arrow is missing"):
        load_all(config)


def other_with_answer(config):
    return dataclasses.replace(config, fields=FieldMap(prompt="question", answer="n"))


def test_a_folder_in_the_hubs_layout(tmp_path):
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", ROWS[:4])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", ROWS[4:6])
    with gzip.open(tmp_path / "data/test.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROWS[6]))
    config = DataConfig(source="hf_dataset", path=str(tmp_path), fields=QA)
    assert load_all(config)[1].rows == 6
    assert load_all(dataclasses.replace(config, split="test"))[1].rows == 1
    with pytest.raises(ValueError, match="no split 'dev'; it has test, train"):
        load_all(dataclasses.replace(config, split="dev"))
    write_parquet(tmp_path / "more/train-00000-of-00001.parquet", ROWS[:4])
    with pytest.raises(ValueError, match="the split is in several folders"):
        load_all(config)
    (tmp_path / "more/train-00000-of-00001.parquet").unlink()
    (tmp_path / "data/train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="train-00000-of-00002.parquet is missing: 1"):
        load_all(config)
    with pytest.raises(ValueError, match="expected a folder written by save_to_disk"):
        load_all(dataclasses.replace(config, path=str(tmp_path / "more")))
