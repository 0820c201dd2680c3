"""Command `report` on made-up runs."""

import pytest

from targetsft_jax.report import main


@pytest.mark.parametrize("paths", [["a"], ["a", "b/mine"], ["b", "a"]])
def test_report_draws_runs_and_prints_their_table(paths, tmp_path, capsys, write_run):
    write_run(tmp_path / "a", "target_sft")
    write_run(tmp_path / "b/mine", "dft")
    out = tmp_path / "pictures/curves.png"
    assert main([*(str(tmp_path / path) for path in paths), "--out", str(out)]) == 0
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = capsys.readouterr().out.splitlines()
    names = ("a · target_sft", "mine · dft")
    printed = [any(line.startswith(name) for line in lines) for name in names]
    assert printed == [True, len(paths) == 2]
    assert lines[-1] == f"curves: {out}"


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        assert main([str(path), "--out", str(tmp_path / "x.png")]) == 1
        assert f"error: {path} has no metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "empty/metrics.jsonl").write_text("")
    assert main([str(tmp_path / "empty"), "--out", str(tmp_path / "x.png")]) == 1
    assert "metrics.jsonl has no step yet" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_invalid_arguments_exit_with_2(capsys):
    with pytest.raises(SystemExit) as refusal:
        main([])
    assert refusal.value.code == 2
