"""The content hash follows every byte that a source reads, and nothing else."""

import dataclasses

import pytest
from support.tables import ROWS, save_splits

from targetsft_jax.data.config import (
    DataConfig,
    SourceConfig,
    SyntheticConfig,
)
from targetsft_jax.data.content_hash import content_hash


def test_the_hash_follows_every_byte_and_nothing_else(tmp_path):
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
    synthetic = SourceConfig()
    seeds = SourceConfig(synthetic=SyntheticConfig(seed=1))
    assert content_hash(synthetic) == content_hash(synthetic) != content_hash(seeds)
    assert content_hash(DataConfig(mixture=[synthetic, config])) != content_hash(
        DataConfig(mixture=[config, synthetic])
    )
    with pytest.raises(ValueError, match="no such file"):
        content_hash(dataclasses.replace(config, path=str(tmp_path / "none.jsonl")))
    folder = save_splits(tmp_path / "hf", {"train": [ROWS[:2]], "test": [ROWS[2:4]]})
    assert content_hash(folder) != content_hash(
        dataclasses.replace(folder, split="test")
    )
