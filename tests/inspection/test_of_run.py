"""The page of a run: at its end, later by the command, and where it fails."""

import pytest
from support import rig
from support.page_target import entry_of
from support.pages_read import data_of

from targetsft_jax import inspect, train
from targetsft_jax.config.load import load
from targetsft_jax.inspection import of_run
from targetsft_jax.parallel import processes


@pytest.fixture(scope="module")
def run_dir(folders, tmp_path_factory):
    """A run of two steps that wrote its page."""
    run_dir = tmp_path_factory.mktemp("run") / "mine"
    keys = {"train__steps": 2, "inspect__rows": 2}
    assert train.main(rig.small_run(folders, run_dir, **keys)) == 0
    return run_dir


def test_a_run_writes_its_page(run_dir, folders) -> None:
    page = data_of((run_dir / "inspect.html").read_text())
    assert page.header["roles"] == ["student", "teacher", "before"]
    assert len(page.header["rows"]) == 2
    provenance = page.header["provenance"]
    assert provenance["student"] == str(run_dir)
    assert provenance["before"] == str(folders["student"])
    assert entry_of(page, "kl")["alternative"]["other"] == "before"
    before, after = (page.arrays[f"logprob_{k}"][:, 0] for k in ("before", "student"))
    # Two steps at a high rate on the same few bytes.
    assert after.mean() > before.mean() + 0.03


def test_the_command_writes_it_again(run_dir, tmp_path) -> None:
    out = tmp_path / "again.html"
    assert inspect.main(["--run", str(run_dir), "--rows", "2", "--out", str(out)]) == 0
    pages = [data_of(path.read_text()) for path in (out, run_dir / "inspect.html")]
    first, second = (page.arrays for page in pages)
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name] == second[name]).all(), name


def test_a_failure_does_not_fail_the_run(run_dir, folders, monkeypatch, capsys) -> None:
    def fail(_):
        raise RuntimeError("out of memory\nwith details")

    monkeypatch.setattr(of_run, "write_page", fail)
    keys = {"train__steps": 2, "inspect__rows": 2}
    assert train.main(rig.small_run(folders, run_dir, **keys)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "warning: the run is complete" in last and "out of memory" in last
    assert f"targetsft inspect --run {run_dir} --rows 2" in last


def test_a_job_of_several_processes_names_the_command(
    run_dir, folders, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    keys = {"train__steps": 2, "inspect__rows": 2}
    of_run.write_page_of_run(load(rig.small_run(folders, run_dir, **keys)))
    (line,) = capsys.readouterr().out.splitlines()
    assert "several processes" in line and "targetsft inspect --run" in line


def test_a_page_without_the_start_of_its_run(
    run_dir, folders, tmp_path, capsys
) -> None:
    out = tmp_path / "page.html"
    arguments = ["--run", str(run_dir), "--rows", "2", "--out", str(out)]
    arguments += ["--student.path", str(tmp_path / "gone")]
    assert inspect.main(arguments) == 0
    assert data_of(out.read_text()).header["roles"] == ["student", "teacher"]
    assert "without the start of the run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_trained_adapters(folders, tmp_path) -> None:
    run_dir = tmp_path / "adapters"
    keys = {"train__steps": 2, "inspect__rows": 2, "lora__rank": 4}
    assert train.main(rig.small_run(folders, run_dir, **keys)) == 0
    page = data_of((run_dir / "inspect.html").read_text())
    assert page.header["roles"] == ["student", "teacher", "before"]
    before, after = (page.arrays[f"logprob_{k}"] for k in ("before", "student"))
    assert (before != after).any()
