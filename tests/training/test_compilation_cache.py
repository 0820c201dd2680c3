"""Compiled programs in `cache_dir`: a second run reads them, with the same losses."""

import json
import subprocess
import sys

import pytest
from support import launched, rig


def _train(folders, run_dir, cache_dir, **environment):
    arguments = rig.small_run(folders, run_dir, train__steps=2, cache_dir=cache_dir)
    variables = launched.environment(run_dir.parent)
    del variables["JAX_COMPILATION_CACHE_DIR"]
    variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    result = subprocess.run(
        [sys.executable, "-m", "targetsft_jax.train", *arguments],
        env=variables | environment,
        cwd=launched.ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    programs = json.loads((run_dir / "goodput.json").read_text())["programs"]
    return result.stdout, programs


@pytest.mark.slow
def test_a_second_run_reads_the_programs_of_the_first(folders, tmp_path):
    cache = tmp_path / "cache"
    _, first = _train(folders, tmp_path / "one", cache)
    printed, second = _train(folders, tmp_path / "two", cache)
    assert first["compiled"] > 0
    assert second["compiled"] == 0 and second["cached"] == first["compiled"]
    share = "{cached} of {cached} programs from the cache".format(**second)
    assert share in printed
    (folder,) = (cache / "compiled").iterdir()
    assert folder.name.startswith("cpu-")
    one, two = (rig.metrics_of(tmp_path / name) for name in ("one", "two"))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]


@pytest.mark.slow
def test_a_folder_that_jax_has_already_stays(folders, tmp_path):
    mine = tmp_path / "mine"
    _train(
        folders,
        tmp_path / "run",
        tmp_path / "cache",
        JAX_COMPILATION_CACHE_DIR=str(mine),
    )
    assert any(mine.iterdir())
    assert not (tmp_path / "cache/compiled").exists()
