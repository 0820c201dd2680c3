"""Stored teachers of planned runs: refusals (their steps: tests/teachers/test_make)."""

from dataclasses import replace

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.data.teacher_cache import STATES, TOP_K, TRAIN, CacheHeader
from targetsft_jax.planning.planned_teacher import Store, planned_teacher


def _config(folder, *more):
    return load(["--config", "quickstart", "--teacher.cache", str(folder), *more])


def test_a_cache_that_exists_is_what_is_planned(tmp_path):
    header = CacheHeader(TOP_K, 8, 3, {"teacher": "T"})
    header.write(tmp_path / TRAIN)
    config = _config(tmp_path)
    for store in (Store(), Store(TOP_K), Store(k=8)):
        found, stored = planned_teacher(config, store)
        assert found == header and stored.width == 8
    for store in (Store(STATES), Store(k=16)):
        with pytest.raises(ConfigError, match="exists and has the top 8 tokens"):
            planned_teacher(config, store)


def test_contents_of_no_cache_are_refused(tmp_path):
    live = load(["--config", "quickstart"])
    assert planned_teacher(live) is None
    sft = _config(tmp_path, "--target.name", "sft")
    for config in (live, sft):
        with pytest.raises(ConfigError, match="the run reads none"):
            planned_teacher(config, Store(k=8))


def test_hidden_states_have_the_width_of_the_teacher(tmp_path):
    config = _config(tmp_path)
    header, stored = planned_teacher(config, Store(STATES))
    assert header.width == stored.width == config.teacher.build.hidden_size
    unnamed = replace(config, teacher=replace(config.teacher, build=None))
    with pytest.raises(ConfigError, match="teacher.path is null"):
        planned_teacher(unnamed, Store(STATES))
