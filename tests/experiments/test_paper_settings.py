"""The ten published settings: cells of two comparisons, as `compare` would run them.

Their models are absent; the published shapes are in configs/architectures.
"""

import importlib.util
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.clusters.command import manifest_text
from targetsft_jax.config.data_checks import check_positions
from targetsft_jax.config.load import load
from targetsft_jax.config.shipped import find
from targetsft_jax.experiments import grid
from targetsft_jax.experiments.declaration import read_comparison
from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.parallel.mesh import mesh_shape
from targetsft_jax.training.step_spec import step_spec

ROOT = Path(__file__).resolve().parents[2]

STEPS = "--train.accumulation_steps"

# Sizes that the hub shows for the published weights.
PARAMETERS = {
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-math-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-math-7b": 7_615_616_512,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
}

STUDENTS = {
    "paper_math": {
        "numina_math_cot": (
            "Qwen/Qwen3-1.7B",
            "Qwen/Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Math-7B",
        ),
        "openr1_math": (
            "Qwen/Qwen3-1.7B",
            "Qwen/Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Math-7B",
        ),
    },
    "paper_medical": {
        "m23k": (
            "meta-llama/Llama-3.2-3B",
            "meta-llama/Llama-3.1-8B",
            "Qwen/Qwen2.5-1.5B",
            "Qwen/Qwen2.5-7B",
        )
    },
}


@pytest.mark.parametrize("name", STUDENTS)
def test_cells_are_the_published_data_sets_students_and_methods(name):
    entries = grid.entries(read_comparison(f"compare/{name}", {}), [])
    expected = {
        (dataset, student, method)
        for dataset, students in STUDENTS[name].items()
        for student in students
        for method in ("sft", "dft", "kd", "target_sft")
    }
    configs = [entry.config for entry in entries]
    found = {(c.data.dataset, c.student.path, c.target.name) for c in configs}
    assert found == expected and len(configs) == len(expected)
    for config in configs:
        assert config.train.batch_size == 256 and config.train.epochs == 1
        is_llama_8b = config.student.path == "meta-llama/Llama-3.1-8B"
        assert config.train.learning_rate == (2e-5 if is_llama_8b else 5e-5)
        assert config.evaluation.samples == 16
        # Student and teacher must share their tokens: one family.
        family = config.student.path.split("/")[1].split("-")[0].split(".")[0]
        assert family in config.teacher.path


@cache
def _table():
    """The module of perf/scaling_table.py."""
    path = ROOT / "perf" / "scaling_table.py"
    spec = importlib.util.spec_from_file_location("scaling_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _entries(name):
    entries = grid.entries(read_comparison(f"compare/{name}", {}), [])
    return {e.setting: e for e in entries if e.config.target.name == "target_sft"}


def _commands(name):
    """Setting -> its slice and keys, of the comments of the configuration."""
    text = find(f"compare/{name}").read_text()
    lines = re.findall(r"^#   (\S+) +(v5e:\S+) *(.*)$", text, re.MULTILINE)
    return {setting: (slice_, keys.split()) for setting, slice_, keys in lines}


@pytest.mark.parametrize("name", PARAMETERS)
def test_architectures_have_the_published_number_of_parameters(name):
    folder = ROOT / "configs" / "architectures" / name
    assert num_parameters(open_model(folder, weights=False).config) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name, setting", [(name, s) for name in STUDENTS for s in _commands(name)]
)
def test_a_setting_fits_its_models_and_its_slice(name, setting, tmp_path):
    """The checks before a first compilation, with the real shapes, for TPUs."""
    config = _table().with_architectures(_entries(name)[setting].config)
    topology, keys = _commands(name)[setting]
    models = {
        role: open_model(getattr(config, role).path, weights=False).config
        for role in ("student", "teacher")
    }
    assert models["student"].vocab_size <= models["teacher"].vocab_size
    check_positions(config, models)
    chips = _table().Row((setting,), "", topology).devices
    shape = mesh_shape(chips, config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    base = {"paper_math": "numina_math", "paper_medical": "m23k"}[name]
    command = load(["--config", base, *keys])
    rows = config.train.batch_size // command.train.accumulation_steps
    assert rows % (shape[0] * shape[1]) == 0
    mesh = SimpleNamespace(
        devices=SimpleNamespace(flat=[SimpleNamespace(platform="tpu")]),
        shape=dict(zip(("data", "fsdp", "context", "tensor"), (1, chips, 1, 1))),
    )
    spec = step_spec(config, models, models["student"].vocab_size, mesh)
    assert spec.numerics.dtype == "bfloat16" and spec.numerics.remat == "full"
    # The command of the comments is this cell, but for the micro-batches of the slice,
    # and a JobSet of it starts.
    entry = _entries(name)[setting].config
    assert replace(command, run_dir=entry.run_dir, train=entry.train) == entry
    steps = entry.train.accumulation_steps
    assert replace(command.train, accumulation_steps=steps) == entry.train
    options = ["--name", "a", "--image", "i", "--topology", topology]
    assert f"{chips} chips" in manifest_text([*options, "--", "--config", base, *keys])


def test_the_table_of_slices_has_every_setting_on_its_slice():
    commands = {
        setting: (slice_, keys[keys.index(STEPS) + 1] if STEPS in keys else "16")
        for name in STUDENTS
        for setting, (slice_, keys) in _commands(name).items()
    }
    rows = {
        setting: (row.topology, str(_table().config_of(row).train.accumulation_steps))
        for row in _table().ROWS
        if row.source
        for setting in row.settings
    }
    assert commands == rows and len(rows) == 10
    for row in _table().ROWS:
        if row.source:
            # They differ in data and folder only, so their programs are equal.
            name = row.source.removeprefix("compare/")
            first, *others = (_entries(name)[s].config for s in row.settings)
            for other in others:
                data = replace(
                    other.data, dataset=first.data.dataset, limit=first.data.limit
                )
                other = replace(other, data=data, run_dir=first.run_dir)
                assert other == first
