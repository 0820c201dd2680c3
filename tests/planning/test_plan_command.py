"""Command `plan`: report, JSON, exit codes."""

import importlib.util
import json
from pathlib import Path

import pytest

from targetsft_jax.plan import main

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
# The same step as in test_plan.py.
SHARDED = [*QUICKSTART, "--mesh.data", "2", "--mesh.fsdp", "4"]


def test_a_step_that_fits_exits_with_0(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert main([*SHARDED, "--topology", "cpu:8", "--json", str(path)]) == 0
    report = capsys.readouterr().out
    for part in (
        "topology  cpu:8: 8 x cpu, mesh data 2, fsdp 4, context 1, tensor 1",
        "264 in the vocabulary: the built models' tokenizer",
        "24 rows of 48 tokens in 1 micro-batch",
        "all-gather",
        "its capacity is unknown",
    ):
        assert part in report
    numbers = json.loads(path.read_text())
    assert numbers["fits"] and numbers["devices"] == 8


def test_a_step_that_does_not_fit_exits_with_3_and_advice(capsys):
    assert main([*SHARDED, "--topology", "cpu:8", "--capacity", "0.001"]) == 3
    report = capsys.readouterr().out
    assert "does not fit" in report
    for key in ("train.remat full", "train.accumulation_steps 2", "mesh.fsdp 8"):
        assert key in report


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology", "v5e-16"], "expected cpu:N, or a generation and its bounds"),
        (["--topology", "cpu:2x2"], "expected cpu:N, such as cpu:8"),
        (["--topology", "cpu:8", "--num-slices", "2"], "cpu:N is one slice"),
        (["--topology", "cpu:8", "--train.remat", "ful"], "train.remat is 'ful'"),
        (["--topology", "cpu:8", "--train.batch_size", "3"], "a multiple of mesh"),
        (["--topology", "cpu:8", "--write", "a.yaml"], "--write needs --search"),
        (["--topology", "cpu:8", "--search", "--k", "8"], "a plan without --search"),
        (["--topology", "cpu:8", "--k", "8"], "describe a teacher cache"),
    ],
)
def test_invalid_arguments_exit_with_2(arguments, message, capsys):
    assert main([*QUICKSTART, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_arguments_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        main(QUICKSTART)
    assert exit.value.code == 2
    assert "--topology" in capsys.readouterr().err


def test_a_missing_tpu_compiler_exits_with_1_and_the_remedy(monkeypatch, capsys):
    find_spec = importlib.util.find_spec

    def without_libtpu(name, package=None):
        return None if name == "libtpu" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_libtpu)
    assert main([*QUICKSTART, "--topology", "v5e:2x4"]) == 1
    assert 'pip install -e ".[tpu]"' in capsys.readouterr().err


def test_a_missing_model_exits_with_1(tmp_path, capsys):
    folder = tmp_path / "student"
    folder.mkdir()
    arguments = ["--topology", "cpu:8", "--student.path", str(folder)]
    assert main([*arguments, "--target.name", "sft"]) == 1
    assert str(folder) in capsys.readouterr().err


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "0 the step fits",
        "1 failed",
        "2 invalid arguments or configuration",
        "3 the step does not",
    ):
        assert part in text
