"""Loading a configuration: overrides, misspelt and renamed keys, wrong types."""

import dataclasses
import os
import typing

import pytest
import yaml

from targetsft_jax.config import load as load_module
from targetsft_jax.config.load import keys, load, parse, renamed_tree, to_yaml
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.config.tree import nested_section

MINIMAL = ["--student.path", "s", "--target.name", "sft"]


def _refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        load([*MINIMAL, *arguments])
    return str(error.value)


def test_overrides_take_precedence_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    tree = {
        "student": {"path": "s"},
        "target": {"name": "sft"},
        "train": {"steps": 7, "learning_rate": 1e-3},
    }
    path.write_text(yaml.safe_dump(tree))
    config = load(["--config", str(path), "--train.steps", "9"])
    assert (config.train.steps, config.train.learning_rate) == (9, 1e-3)
    assert load([f"--config={path}", "--train.steps=9"]) == config


def test_a_shipped_configuration_is_found_by_name():
    assert load(["--config", "quickstart"]).run_dir == "runs/quickstart"


def test_to_yaml_round_trips(tmp_path):
    path = tmp_path / "again.yaml"
    config = load([*MINIMAL, "--train.learning_rate", "1e-7", "--lora.rank", "4"])
    path.write_text(to_yaml(config))
    assert load(["--config", str(path)]) == config


def test_print_config_alone_prints_the_tree(capsys):
    with pytest.raises(SystemExit) as end:
        load([*MINIMAL, "--print-config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["student"]["path"] == "s"


@pytest.mark.parametrize("flag", ["--print-config", "--print_config"])
def test_print_config_needs_no_models_and_no_files(flag, capsys):
    with pytest.raises(SystemExit) as end:
        load([flag])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["student"]["path"] is None


def test_print_config_refuses_wrong_values(capsys):
    assert "train.steps is -1" in _refusal("--print-config", "--train.steps", "-1")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["quickstart", "other.yaml", "configs/quickstart"])
def test_a_file_without_its_key_is_refused_with_the_key(name):
    is_file = name != "configs/quickstart"
    message = _refusal(name)
    assert f"{name!r} is not a key; expected --KEY VALUE" in message
    assert (f"such as --config {name}" in message) == is_file


@pytest.mark.parametrize(
    "flag", [["--resume"], ["--resume", "true"], ["--resume=true"]]
)
def test_resume_is_a_flag_and_a_key(flag):
    assert load([*MINIMAL, *flag]).resume is True


@pytest.mark.parametrize(
    "misspelt, expected",
    [
        ("train.learing_rate", "train.learning_rate"),
        ("learning_rate", "train.learning_rate"),
        ("train.stepz", "train.steps"),
        ("stepz", "train.steps"),
        ("lora.ranks", "lora.rank"),
        ("data.max_lenght", "data.max_length"),
    ],
)
def test_a_misspelt_key_suggests_the_nearest_one(misspelt, expected, tmp_path):
    assert f"Did you mean {expected}?" in _refusal(f"--{misspelt}", "3")
    section, _, leaf = misspelt.rpartition(".")
    if section:
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({section: {leaf: 3}}))
        assert f"Did you mean {expected}?" in _refusal("--config", str(path))


@pytest.mark.parametrize("old, new", load_module.RENAMED_KEYS.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new, tmp_path):
    leaf = ".digits" if old.endswith("embedded") else ""
    assert f"{old}{leaf} was renamed; use {new}{leaf}" in _refusal(
        f"--{old}{leaf}", "3"
    )
    tree: dict = {"digits": 3} if leaf else {}
    value: object = tree or 3
    for name in reversed(old.split(".")):
        value = {name: value}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(value))
    assert f"use {new}" in _refusal("--config", str(path))


def test_new_names_of_renamed_keys_exist_and_old_ones_do_not():
    assert set(load_module.RENAMED_KEYS.values()) <= set(keys())
    assert not set(load_module.RENAMED_KEYS) & set(keys())


def test_the_removed_key_compare_names_its_command(tmp_path):
    assert "targetsft_jax.compare" in _refusal("--compare", "[sft]")
    path = tmp_path / "c.yaml"
    path.write_text("compare: [sft]\n")
    assert "targetsft_jax.compare" in _refusal("--config", str(path))


def test_the_renamed_source_embedded_is_refused_with_its_new_name():
    message = _refusal("--data.source", "embedded")
    assert "data.source is 'embedded'" in message and "synthetic" in message


@pytest.mark.parametrize(
    "key, value, expected",
    [
        (
            "train.steps",
            "many",
            "a whole number or null",
        ),
        ("train.steps", "3.5", "a whole number or null"),
        (
            "train.learning_rate",
            "fast",
            "a number",
        ),
        ("resume", "maybe", "true or false"),
        ("lora.targets", "q", "a list"),
        ("lora.rank", "wide", "a whole number"),
        ("target.eta", "big", "a number, a mapping or null"),
        (
            "student.build.data",
            "3",
            "a section with keys such as student.build.data.kinds",
        ),
        ("student.build.data.digits", "x", "a whole number"),
    ],
)
def test_a_wrong_type_is_one_sentence(key, value, expected):
    message = _refusal(f"--{key}", value)
    assert message.splitlines()[0] == f"{key} is {value!r}; expected {expected}"
    assert "Union" not in message and "class" not in message


def test_a_number_for_a_section_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: 3\n")
    assert "train is 3; expected a section" in _refusal("--config", str(path))


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--help"], "topics of --help:"),
        (["-h", "target"], "--target.eta"),
        (["--train.steps", "3", "--help", "train"], "--train.batch_size"),
        (["--help=mesh"], "--mesh.fsdp"),
        (["--help", "--train.steps"], "--train.steps"),
    ],
)
def test_help_takes_a_topic(arguments, part, capsys):
    with pytest.raises(SystemExit) as end:
        load(arguments)
    assert end.value.code == 0
    assert part in capsys.readouterr().out


def test_renamed_tree_renames_keys_and_values_and_drops_removed_keys():
    old = {
        "compare": ["sft"],
        "train": {"micro_batches": 2, "steps": 3},
        "data": {"source": "embedded", "embedded": {"digits": 2}},
    }
    assert renamed_tree(old) == {
        "train": {"accumulation_steps": 2, "steps": 3},
        "data": {"source": "synthetic", "synthetic": {"digits": 2}},
    }


def test_parse_does_not_check_values():
    assert parse(["--train.steps", "0"]).train.steps == 0


def test_every_field_of_the_tree_is_declared_by_key():
    def check(section: type) -> None:
        for each in dataclasses.fields(section):
            assert each.metadata.get("help"), f"{section.__name__}.{each.name}"
            default = each.default_factory
            if isinstance(default, type) and dataclasses.is_dataclass(default):
                check(default)

    check(Config)


@pytest.mark.parametrize(
    "content, parts",
    [
        (
            b"train: {steps: 5}\nseed: 1\ntrain: {batch_size: 8}\n",
            ("line 3", "'train'"),
        ),
        (b"a: &a [*a]\n", ("line 1", "inside of itself")),
        ("seed: 1".encode("utf-16"), ("UTF-16", "UTF-8")),
        (b"", ("is empty", "a mapping of keys")),
        (b"# nothing\n", ("is empty",)),
        (b"\x80\x81", ("line 1", "not UTF-8")),
        (b"seed: 1\n---\nseed: 2\n", ("line 2", "one document")),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content, parts, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    message = _refusal("--config", str(path))
    for part in (str(path), *parts):
        assert part in message
    assert message.count("\n") <= 1


def test_a_pipe_or_folder_as_a_configuration_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe; expected a regular file" in _refusal(
        "--config", str(tmp_path / "pipe")
    )
    assert "is a folder; expected a regular file" in _refusal("--config", str(tmp_path))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train.steps"], "--train.steps has no value"),
        (["--train.steps", "--seed", "1"], "--train.steps has no value"),
        (["x"], "'x' is not a key; expected --KEY VALUE"),
        (["-x", "3"], "'-x' is not a key"),
        (["--=3"], "'--=3' is not a key"),
        (["--a\nb", "3"], r"'a\nb' is not a key"),
        (["--train", "/dev/zero"], "train is '/dev/zero'; expected a section"),
        (["--train.steps", "1e23"], "train.steps is 99999999999999991611392"),
        (["--train.batch_size", "1" + 50 * "0"], "train.batch_size is '1000"),
        (["--lora.rank", "null"], "lora.rank is None; expected a whole number"),
        (["--log.wandb", "a/b"], "log.wandb is 'a/b'; expected a name"),
        (
            ["--train.batch_size", "16777216"],
            "train.batch_size is 16777216 and data.max_length is 1024",
        ),
        (["--mesh.coordinator", "host:99999"], "mesh.coordinator is 'host:99999'"),
    ],
)
def test_refusals_of_a_command_line(arguments, message):
    assert message in _refusal(*arguments)


@pytest.mark.parametrize(
    "build, message",
    [
        ("{steps: -1}", "student.build.steps is -1; expected 1 or more"),
        ("{learning_rate: .inf}", "student.build.learning_rate is inf"),
        ("{learning_rate: -1}", "student.build.learning_rate is -1"),
        ("{seed: 1e23}", "student.build.seed is 99999"),
        ("{num_heads: 7}", "student.build.hidden_size is 256; expected a multiple of"),
        ("{num_kv_heads: 3}", "student.build.num_heads is 8; expected a multiple of"),
        ("{hidden_size: 16384, num_layers: 256}", "student.build describes"),
        ("{data: {kinds: {addition: 1e308, dosing: 1e308}}}", "data.kinds"),
    ],
)
def test_the_section_of_a_built_model_is_checked(build, message):
    with pytest.raises(ConfigError) as error:
        load(["--target.name", "sft", "--student.build", build])
    assert message in str(error.value)


def test_the_last_of_equal_arguments_counts():
    assert parse(["--train.steps", "1", "--train.steps", "2"]).train.steps == 2


def test_every_number_outside_of_target_declares_its_domain():
    def check(section: type, prefix: str) -> None:
        hints = typing.get_type_hints(section)
        for each in dataclasses.fields(section):
            inner = nested_section(hints[each.name])
            path = f"{prefix}{each.name}"
            if inner is not None and path != "target":
                check(inner, f"{path}.")
            kind = hints[each.name]
            plain = typing.get_origin(kind) in (list, dict)
            numeric = not plain and {int, float} & {kind, *typing.get_args(kind)}
            assert not numeric or each.metadata["domain"] is not None, path

    check(Config, "")
