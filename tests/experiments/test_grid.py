"""Cells of a comparison: settings × methods × hyper-parameters × seeds."""

import re
from pathlib import Path

import pytest
import yaml

from targetsft_jax.config.schema import ConfigError
from targetsft_jax.experiments.declaration import (
    Comparison,
    Tuning,
    read_comparison,
)
from targetsft_jax.experiments.grid import Cell, entries

BASE = {
    "student": {"path": "s"},
    "teacher": {"path": "t"},
    "target": {"name": "target_sft", "eta": 0.3},
    "train": {"steps": 7},
}


@pytest.fixture
def base(tmp_path) -> str:
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return str(path)


def _file(tmp_path: Path, **tree) -> str:
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "run_dir": "runs/x", **tree}))
    return str(path)


def cells(comparison: Comparison, arguments=()) -> list[Cell]:
    return [cell for entry in entries(comparison, arguments) for cell in entry.cells()]


def test_cells_are_methods_times_seeds(base):
    grid = cells(Comparison(base, "runs/x", ["sft", "target_sft"], [0, 5]))
    assert [(cell.name, cell.seed) for cell in grid] == [
        ("sft", 0),
        ("sft", 5),
        ("target_sft", 0),
        ("target_sft", 5),
    ]
    assert [cell.config.run_dir for cell in grid[:2]] == [
        "runs/x/sft/seed0",
        "runs/x/sft/seed5",
    ]
    for cell in grid:
        assert cell.config.seed == cell.seed
        assert cell.config.train.steps == 7


def test_hyper_parameters_of_the_base_apply_to_its_method_only(base):
    sft, guided = cells(Comparison(base, "runs/x", ["sft", "target_sft"]))
    assert sft.config.target.eta is None
    assert guided.config.target.eta == 0.3
    assert guided.config.method.hyper["eta"] == 0.3


def test_a_list_of_values_expands_to_one_cell_per_value(base):
    methods = [{"target_sft": {"eta": [0, 0.5, 1]}}, {"gem": {"beta": 0.8}}, "dft"]
    grid = cells(Comparison(base, "runs/x", methods))
    assert [cell.name for cell in grid] == [
        "target_sft eta=0",
        "target_sft eta=0.5",
        "target_sft eta=1",
        "gem beta=0.8",
        "dft",
    ]
    assert [cell.config.target.eta for cell in grid[:3]] == [0, 0.5, 1]
    assert len({cell.config.run_dir for cell in grid}) == 5


def test_overrides_change_every_cell(base):
    grid = cells(
        Comparison(base, "runs/x", ["sft", "dft"]), ["--train.batch_size", "16"]
    )
    assert [cell.config.train.batch_size for cell in grid] == [16, 16]


def test_policy_sources_of_another_method_are_dropped(base, tmp_path):
    tree = BASE | {"target": {"name": "psft"}, "policy": {"old_logprob": "data"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tree))
    psft, sft = cells(Comparison(base, "runs/x", ["psft", "sft"]))
    assert psft.config.policy.old_logprob == "data"
    assert sft.config.policy.old_logprob is None


def test_the_shipped_comparison_is_found_by_name():
    comparison = read_comparison("compare/quickstart", {})
    assert comparison.methods[0] == "sft" and "target_sft" in comparison.methods
    names = [entry.config.method.name for entry in entries(comparison)]
    assert names == comparison.methods


def test_settings_override_the_base_and_arguments_override_settings(base):
    settings = {
        "clean": {"data": {"synthetic": {"label_noise": 0.0}}, "train": {"steps": 3}},
        "noisy": {"data": {"synthetic": {"label_noise": 0.3}}},
    }
    comparison = Comparison(base, "runs/x", ["sft", "dft"], settings=settings)
    clean, _, noisy, _ = cells(comparison, ["--train.batch_size", "16"])
    assert [clean.setting, noisy.setting] == ["clean", "noisy"]
    assert clean.config.run_dir == "runs/x/clean/sft/seed0"
    assert clean.config.data.synthetic.label_noise == 0
    assert noisy.config.data.synthetic.label_noise == 0.3
    assert (clean.config.train.steps, noisy.config.train.steps) == (3, 7)
    assert {c.config.train.batch_size for c in (clean, noisy)} == {16}


def test_more_seeds_belong_to_one_entry(base):
    methods = ["sft", {"gem": {"beta": [0.7, 0.8]}}]
    comparison = Comparison(
        base, "runs/x", methods, [0, 1], more_seeds={"gem beta=0.8": [2]}
    )
    seeds = [entry.seeds for entry in entries(comparison)]
    assert seeds == [[0, 1], [0, 1], [0, 1, 2]]


def test_trials_are_measured_on_other_problems(base):
    comparison = Comparison(
        base,
        "runs/x",
        ["sft"],
        tuning=Tuning([0.1, 0.2], problems=5, samples=3, seed=9),
    )
    arguments = ["--evaluation.problems", "4", "--evaluation.skip", "2"]
    (entry,) = entries(comparison, arguments)
    low, high = entry.trials()
    assert [t.config.train.learning_rate for t in (low, high)] == [0.1, 0.2]
    assert low.config.run_dir == "runs/x/sft/trial0.1" and low.config.seed == 9
    evaluation = low.config.evaluation
    assert (evaluation.skip, evaluation.problems, evaluation.samples) == (6, 5, 3)
    (cell,) = entry.cells(0.2)
    assert cell.config.train.learning_rate == 0.2
    assert (cell.config.evaluation.skip, cell.config.evaluation.problems) == (2, 4)


def test_overrides_replace_values_of_the_file(base, tmp_path):
    path = _file(tmp_path, methods=["sft"])
    replacing = {"methods": "[dft, {gem: {beta: 0.9}}]", "seeds": "[1, 2]"}
    comparison = read_comparison(path, replacing | {"run_dir": None})
    assert comparison.methods == ["dft", {"gem": {"beta": 0.9}}]
    assert comparison.seeds == [1, 2] and comparison.run_dir == "runs/x"
    assert len(cells(comparison)) == 4


@pytest.mark.parametrize(
    "tree, parts",
    [
        ({}, ("methods is missing",)),
        ({"methods": "sft"}, ("methods is 'sft'", "a list")),
        ({"methods": ["sft"], "seeds": 3}, ("seeds is 3", "a list")),
        ({"methods": ["sft"], "sedes": [3]}, ("sedes is not a key", "seeds")),
        ({"methods": ["tsft"]}, ("no method 'tsft'", "target_sft")),
        ({"methods": [{"sft": {"eta": 1}}]}, ("sft has no hyper-parameter eta",)),
        ({"methods": [{"gem": {"beta": -1}}]}, ("target.beta is -1", "expected")),
        ({"methods": [["sft"]]}, ("['sft']", "a name")),
        ({"methods": ["sft", "sft"]}, ("sft twice", "remove one")),
        ({"methods": ["sft"], "seeds": [4, 4]}, ("seeds has 4 twice",)),
        (
            {"methods": ["sft"], "more_seeds": {"dft": [1]}},
            ("more_seeds has dft", "one of sft"),
        ),
        (
            {"methods": ["sft"], "more_seeds": {"sft": [0]}},
            ("seeds has 0 twice",),
        ),
        (
            {"methods": ["sft"], "settings": {"a/b": {}}},
            ("settings has the name 'a/b'", "letters"),
        ),
        ({"methods": ["sft"], "settings": {"a": 3}}, ("settings.a is 3", "keys")),
        (
            {"methods": ["sft"], "settings": {"a": {"trian": {"steps": 3}}}},
            ("settings.a", "trian is not a key"),
        ),
        (
            {"methods": ["sft"], "settings": {"a": {"train": {"steps": 0}}}},
            ("a, sft", "train.steps is 0"),
        ),
        (
            {"methods": ["sft"], "tuning": {"learning_rates": []}},
            ("tuning.learning_rates is []", "different rates"),
        ),
        (
            {"methods": ["sft"], "tuning": {"learning_rates": [0.1, 0.1]}},
            ("tuning.learning_rates", "different rates"),
        ),
        (
            {"methods": ["sft"], "baseline": "dft"},
            ("baseline is dft", "one of sft"),
        ),
        (
            {"methods": ["sft"], "map_setting": "x"},
            ("map_setting is x", "one of"),
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_key(base, tmp_path, tree, parts):
    with pytest.raises(ConfigError) as error:
        cells(read_comparison(_file(tmp_path, **tree), {}))
    for part in parts:
        assert part in str(error.value)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("methods: [sft")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 2: not YAML"):
        read_comparison(str(path), {})


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"methods": [{"sft": 3}]}, "sft has 3; expected hyper-parameters"),
        ({"methods": [{"target_sft": {"eta": []}}]}, "target_sft.eta is .*a value"),
        ({"methods": [{"target_sft": {"eta": "x"}}]}, "target.eta is 'x'"),
        ({"methods": [{"target_sft": {"eta": [[]]}}]}, "target.eta is "),
        ({"methods": [None]}, "methods has None"),
        ({"methods": [{"gem": {"beta": [0.7] * 20_000}}]}, "more than 10,000 cells"),
        ({"methods": ["sft"], "seeds": []}, "seeds is missing or empty"),
        ({"methods": ["sft"], "seeds": [1.5]}, r"seeds.0. is 1.5; expected a whole"),
        ({"methods": ["sft"], "seeds": list(range(20_000))}, "20,000 cells"),
        ({"methods": ["sft"], "run_dir": " "}, "run_dir is ' '; expected a text"),
        ({"methods": ["sft"], "base": 3}, "base is 3; expected a text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_comparisons(base, tmp_path, tree, message):
    with pytest.raises(ConfigError, match=message):
        cells(read_comparison(_file(tmp_path, **tree), {}))


@pytest.mark.parametrize("key", ["run_dir", "methods", "seeds"])
def test_an_empty_override_is_refused(base, tmp_path, key):
    with pytest.raises(ConfigError, match=key):
        read_comparison(_file(tmp_path, methods=["sft"]), {key: ""})


def test_a_repeated_key_of_a_comparison_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base: b\nrun_dir: r\nmethods: [sft]\nrun_dir: q\n")
    with pytest.raises(ConfigError, match="c.yaml, line 4: key 'run_dir'"):
        read_comparison(str(path), {})


def test_a_comparison_writes_no_pages(base):
    with pytest.raises(ConfigError, match=r"inspect\.rows is 20; expected 0"):
        cells(Comparison(base, "runs/x", ["sft"]), ["--inspect.rows", "20"])


def test_run_directories_of_cells_have_plain_names(base):
    (cell,) = cells(Comparison(base, "r", [{"custom": {"gamma": {"power": 0.5}}}]))
    assert re.fullmatch(r"r/[\w.=+-]+/seed0", cell.config.run_dir)
