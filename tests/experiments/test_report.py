"""The report on runs written by hand."""

import json

import numpy as np
import pytest

from targetsft_jax.experiments.curves import running_mean
from targetsft_jax.experiments.runs import read_runs
from targetsft_jax.loss.histogram import BINS
from targetsft_jax.report import main


def _write(folder, method="sft", steps=30, start=2.0, **more):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"target: {{name: {method}}}\n")
    rows = [
        {"step": n, "loss": start / n, "nll": start / n, "tokens_per_second": 5e3}
        for n in range(1, steps + 1)
    ]
    rows[9] |= {"loss": None, "skipped": 1.0}
    for number in (10, 20, 30):
        rows[number - 1] |= {"validation_loss": start / number + 0.1}
    lines = [json.dumps(row | more) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 31, "lo')
    spread = [{"step": n, "gamma": [1 / BINS] * BINS} for n in (1, 10, 20)]
    text = "\n".join(json.dumps(row) for row in spread)
    (folder / "histograms.jsonl").write_text(text + "\n")
    seconds = {"steps": 60.0, "compile": 20.0, "save": 20.0}
    kept = json.dumps({"sessions": 1, "seconds": seconds})
    (folder / "goodput.json").write_text(kept)


@pytest.mark.parametrize("runs", [["a"], ["a", "b/mine"]])
def test_draws_one_run_or_several_and_says_where_they_are(tmp_path, capsys, runs):
    _write(tmp_path / "a", "target_sft")
    _write(tmp_path / "a/compare/sft", start=3.0)
    _write(tmp_path / "b/mine", "dft")
    out = tmp_path / "pictures/curves.png"
    assert main([*(str(tmp_path / run) for run in runs), "--out", str(out)]) == 0
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == (
        ["run", "step", "loss", "nll", "val", "loss", "tok/s", "skipped", "goodput"]
    )
    line = next(line for line in said if "a · sft" in line)
    # 3/30, 3/30 + 0.1, one step skipped, 60 of 100 seconds in steps.
    assert line.split()[3:] == ["30", "0.1000", "0.1000", "0.2000", "5,000", "1", "60%"]
    names = ("a · sft", "a · target_sft", "mine · dft")
    drawn = [any(line.startswith(name) for line in said) for name in names]
    assert drawn == [True, True, len(runs) == 2]


def test_a_torn_line_and_what_is_not_finite_are_left_out(tmp_path):
    _write(tmp_path / "a")
    (run,) = read_runs([str(tmp_path / "a")])
    steps, values = run.series("loss")
    assert len(run.rows) == 30 and 10 not in steps and len(steps) == 29
    assert run.series("kl_teacher") == ([], [])


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        assert main([str(path), "--out", str(tmp_path / "x.png")]) == 1
        assert f"{path}: no metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "empty/metrics.jsonl").write_text("")
    assert main([str(tmp_path / "empty"), "--out", str(tmp_path / "x.png")]) == 1
    assert "no step is written down yet" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("length", [1, 5, 99, 100, 730])
def test_running_mean_is_numpys_and_does_not_bend_a_trend(length):
    line = np.linspace(3, 9, length)
    np.testing.assert_allclose(running_mean(line.tolist()), line, rtol=1e-12)
    noisy = line + np.random.default_rng(0).normal(size=length)
    half = length // 100
    window = np.ones(2 * half + 1) / (2 * half + 1)
    inner = slice(half, length - half)
    wanted = np.convolve(noisy, window, "valid")
    np.testing.assert_allclose(running_mean(noisy.tolist())[inner], wanted)
