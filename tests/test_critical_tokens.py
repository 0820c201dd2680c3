"""Command line of the miner: a model, a file, refusals, and training on the result."""

import json

import pytest
from support import rig

from targetsft_jax.critical_tokens import main
from targetsft_jax.mining.mined_file import open_mined
from targetsft_jax.train import main as train

OPTIONS = ["--max_new_tokens", "4", "--limit", "2", "--batch_size", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return rig.write_folders(tmp_path_factory.mktemp("models"))["student"]


def test_outcomes_and_settings_are_written(model, tmp_path, capsys):
    out = tmp_path / "new" / "mined.jsonl"
    command = ["--model", str(model), "--out", str(out), *OPTIONS]
    assert main(command) == 1
    output = capsys.readouterr()
    assert "2 of 2 problems, 0 rows" in output.out and "ETA 0:00:00" in output.out
    assert "has no row: no greedy answer" in output.err
    assert out.read_text() == ""
    # Random weights: what they answer is wrong or endless.
    lines = (out.parent / "mined.jsonl.outcomes.jsonl").read_text().splitlines()
    assert {json.loads(line)["outcome"] for line in lines} <= {"wrong", "truncated"}
    settings = json.loads((out.parent / "mined.jsonl.settings.json").read_text())
    assert settings["settings"]["data.synthetic.seed"] == 0
    assert settings["names"] == {"model": str(model)}

    assert main([*command, "--data.synthetic.seed", "1"]) == 2
    assert "with data.synthetic.seed 0; now it is 1" in capsys.readouterr().err
    assert main([*command, "--train.dtype", "bfloat16"]) == 2
    assert 'with train.dtype "float32"; now it is' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/nowhere/m"], "/nowhere/m"),
        (["--rule", "some"], "--rule is 'some'; expected one of all, any"),
        (["--data.source", "jsonl", "--data.path", "/nowhere/d"], "/nowhere/d"),
        (["--mesh.data", "7"], "change mesh.data"),
        (["--limt", "2"], "limt is not a key"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused(
    model, tmp_path, capsys, arguments, message
):
    out = tmp_path / "mined.jsonl"
    command = ["--model", str(model), "--out", str(out), *OPTIONS, *arguments]
    assert main(command) in (1, 2)
    error = capsys.readouterr().err
    assert message.lower() in error.lower() and len(error) < 400
    assert not out.exists()


@pytest.mark.slow
def test_cft_trains_on_the_file_at_once(model, tmp_path):
    out = tmp_path / "mined.jsonl"
    row = {
        "messages": [
            {"role": "user", "content": "1+1=?"},
            {"role": "assistant", "content": "#### 2"},
        ],
        "answer": "2",
        "id": "a",
        "critical_mask": [0, 0, 0, 0, 0, 1, 0],
    }
    with open_mined(out, {}, {}) as file:
        file.add({"id": "a", "outcome": "used", "tokens": 7, "critical": 1}, row)
    command = {
        "run_dir": tmp_path / "run",
        "student.path": model,
        "target.name": "cft",
        "data.source": "jsonl",
        "data.path": out,
        "data.max_length": 16,
        "train.steps": 1,
        "train.batch_size": 8,
        "data.packing": False,
        "cache_dir": tmp_path,
    }
    assert train(rig.command(command)) == 0
    step = rig.metrics_of(tmp_path / "run")[0]
    assert step["gamma"] == pytest.approx(1 / 7) and step["loss"] > 0
