"""Workflows of GitHub: valid YAML, existing scripts, the supported Pythons."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

workflows = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def load(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in load(path)["jobs"].values():
        yield from job["steps"]


def test_there_is_one_for_tests_docs_and_releases() -> None:
    assert [path.stem for path in PATHS] == ["docs", "release", "tests"]


@workflows
def test_the_token_may_only_read_unless_a_job_asks_for_more(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}


@workflows
def test_each_step_runs_a_command_or_a_versioned_action(path: Path) -> None:
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])


@workflows
def test_files_and_extras_of_the_commands_exist(path: Path) -> None:
    for step in steps(path):
        command = step.get("run", "")
        for word in shlex.split(command):
            if word.startswith(".ci/"):
                assert (ROOT / word).is_file(), word
        for extras in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_matrix_has_the_supported_pythons() -> None:
    prefix = "Programming Language :: Python :: 3."
    supported = [
        name.rpartition(" ")[2]
        for name in PROJECT["classifiers"]
        if name.startswith(prefix)
    ]
    jobs = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    for name in ("fast", "packages"):
        assert jobs[name]["strategy"]["matrix"]["python"] == supported
