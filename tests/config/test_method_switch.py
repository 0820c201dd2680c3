"""Another method on the command line than in the file."""

import pytest
import yaml

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError

NOTE = "of the file"


@pytest.fixture
def file(tmp_path):
    def write(target, policy=None):
        path = tmp_path / "c.yaml"
        tree = {"student": {"path": "s"}, "teacher": {"path": "t"}, "target": target}
        path.write_text(yaml.safe_dump(tree | ({"policy": policy} if policy else {})))
        return ["--config", str(path)]

    return write


def test_hyper_parameters_that_the_method_lacks_are_left_out(file, capsys):
    arguments = file({"name": "target_sft", "eta": 0.3})
    config = load([*arguments, "--target.name", "dft"])
    assert config.target.eta is None and config.method.hyper == {}
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "target.eta of the file is left out" in error and "dft" in error


def test_the_order_of_the_arguments_does_not_matter(file):
    arguments = file({"eta": 0.3})
    assert load(["--target.name", "dft", *arguments]).method.name == "dft"


def test_shared_hyper_parameters_are_kept(file, capsys):
    arguments = file({"name": "target_sft", "eta": 0.3, "gamma": 0.5})
    config = load([*arguments, "--target.name", "taid"])
    assert config.method.hyper["eta"] == 0.3 and config.target.gamma is None
    assert "target.gamma of the file is left out" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["target.eta", "target.gamma"])
def test_those_of_the_command_line_stay_errors(key, file):
    arguments = file({"name": "target_sft", "eta": 0.3})
    with pytest.raises(ConfigError, match=f"no hyper-parameter {key[7:]}"):
        load([*arguments, "--target.name", "dft", f"--{key}", "0.5"])


def test_those_of_a_file_with_its_own_method_stay_errors(file):
    with pytest.raises(ConfigError, match="no hyper-parameter eta"):
        load(file({"name": "dft", "eta": 0.3}))


def test_a_later_file_with_a_method_takes_precedence(file, capsys):
    arguments = file({"name": "target_sft", "eta": 0.3})
    config = load(["--target.name", "dft", *arguments])
    assert config.method.name == "target_sft" and config.method.hyper["eta"] == 0.3
    assert capsys.readouterr().err == ""


def test_policy_sources_that_the_method_does_not_read_are_left_out(file, capsys):
    arguments = file({"name": "psft"}, {"old_logprob": "snapshot", "refresh_every": 4})
    config = load([*arguments, "--target.name", "sft"])
    assert config.policy.old_logprob is None and config.policy.refresh_every == 4
    assert "policy.old_logprob of the file is left out" in capsys.readouterr().err


def test_the_same_method_changes_nothing(file, capsys):
    arguments = file({"name": "target_sft", "eta": 0.3})
    assert load([*arguments, "--target.name", "target_sft"]) == load(arguments)
    assert capsys.readouterr().err == ""


def test_an_unknown_method_is_the_only_message(file, capsys):
    arguments = file({"name": "target_sft", "eta": 0.3})
    with pytest.raises(ConfigError, match="target.name is 'dtf'"):
        load([*arguments, "--target.name", "dtf"])
    assert capsys.readouterr().err == ""
