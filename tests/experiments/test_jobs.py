"""Parts of a comparison, and their processes."""

import json

import pytest
import yaml
from support import rig

from targetsft_jax.command import UsageError
from targetsft_jax.compare import main
from targetsft_jax.experiments.jobs import part_of


def test_parts_are_disjoint_and_complete():
    parts = [part_of(range(7), f"{k}/3") for k in (1, 2, 3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert part_of(range(7), None) == list(range(7))


@pytest.mark.parametrize(
    "part", ["", "1", "0/2", "3/2", "a/2", "1/b", "-1/2", "1/9999"]
)
def test_a_wrong_part_is_refused(part: str):
    with pytest.raises(UsageError, match="--part is"):
        part_of(range(3), part)


@pytest.mark.slow
def test_jobs_run_all_cells_and_write_one_table(folders, tmp_path, capfd):
    tree = {
        "base": "base.yaml",
        "run_dir": str(tmp_path / "cells"),
        "methods": ["sft", "dft"],
        "seeds": [0, 1],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "base.yaml").write_text("seed: 0\n")
    overrides = rig.small_run(
        folders,
        tmp_path / "unused",
        evaluation__problems=2,
        evaluation__samples=1,
        evaluation__max_new_tokens=4,
    )
    index = overrides.index("--run_dir")
    overrides = [*overrides[:index], *overrides[index + 2 :]]
    command = ["--config", str(tmp_path / "c.yaml"), *overrides]
    assert main([*command, "--jobs", "2"]) == 0
    printed = capfd.readouterr().out
    for job, method in ((1, "sft"), (2, "dft")):
        assert f"job {job} [1/2] {method}, seed 0" in printed
    lines = (tmp_path / "cells/results.jsonl").read_text().splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    assert labels.count("sft") == labels.count("dft") == 2
