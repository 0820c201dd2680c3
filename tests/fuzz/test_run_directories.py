"""Run directories that someone has changed: no claim alters or loses a file."""

import json
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from targetsft_jax.checkpoints.claim import claim, write_config
from targetsft_jax.config.load import load, to_yaml
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.storage.run_dir import RunDir

CASES = 80


@pytest.fixture(scope="module")
def config():
    return load(["--student.path", "a", "--teacher.path", "b", "--run_dir", "unused"])


def _run(path: Path, config) -> RunDir:
    """Run directory with checkpoints 2 and 4 and a file of each kind."""
    run_dir = RunDir(path)
    with claim(run_dir, config):
        write_config(run_dir, config)
    for step in (2, 4):
        folder = run_dir.checkpoints / str(step)
        for name, tree in (
            ("position", {"step": step}),
            ("provenance", {"config": asdict(config)}),
        ):
            (folder / name).mkdir(parents=True)
            (folder / name / "metadata").write_text(json.dumps(tree))
        (folder / "params").mkdir()
        (folder / "params/_METADATA").write_text("{}")
    for file in ("metrics.jsonl", "hf/model.safetensors", "model/config.json"):
        (run_dir.path / file).parent.mkdir(exist_ok=True)
        (run_dir.path / file).write_text("{}")
    return run_dir


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _remove(run_dir, rng):
    rng.choice(_files(run_dir.path)).unlink()


def _remove_folder(run_dir, rng):
    shutil.rmtree(rng.choice(sorted(p for p in run_dir.path.rglob("*") if p.is_dir())))


def _flip(run_dir, rng):
    path = rng.choice(_files(run_dir.path))
    content = bytearray(path.read_bytes() or b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _truncate(run_dir, rng):
    path = rng.choice(_files(run_dir.path))
    path.write_bytes(path.read_bytes()[: rng.randrange(1 + path.stat().st_size)])


def _foreign(run_dir, rng):
    path = run_dir.path / rng.choice(["config.yaml", "hf/x", "metrics.jsonl", "y/z"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# mine\nseed: 3\n")


def _rename(run_dir, rng):
    folder = run_dir.checkpoints
    if folder.is_dir() and (names := sorted(folder.iterdir())):
        target = folder / str(rng.choice([1, 3, 9, 99]))
        if not target.exists():
            rng.choice(names).rename(target)


def _copy(run_dir, rng):
    path = rng.choice(_files(run_dir.path))
    target = rng.choice(_files(run_dir.path)).with_name("config.yaml")
    target.write_bytes(path.read_bytes())


def _link(run_dir, rng):
    path = rng.choice(_files(run_dir.path))
    path.unlink()
    path.symlink_to(rng.choice(["/nowhere", "/etc/hostname", "metrics.jsonl"]))


CHANGES = [_remove, _remove_folder, _flip, _truncate, _foreign, _rename, _copy, _link]


def _content(folder: Path) -> dict:
    return {
        path.relative_to(folder): path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def _knows(run_dir: RunDir, config) -> bool:
    """True if some file still has the whole configuration of the run."""
    texts = [path.read_text("utf-8", "replace") for path in _files(run_dir.path)]
    yaml, tree = to_yaml(config), json.dumps({"config": asdict(config)})
    return any(yaml in text or tree in text for text in texts)


@pytest.mark.parametrize("part", range(4))
def test_changed_run_directories(tmp_path, config, count, part):
    """Refused with every byte in place, or taken as the run that it was."""
    other = replace(config, seed=7)
    for case in range(CASES // 4):
        rng = random.Random(1000 * part + case)
        run_dir = _run(tmp_path / str(case), config)
        for _ in range(rng.randint(1, 3)):
            if _files(run_dir.path):
                rng.choice(CHANGES)(run_dir, rng)
        before = _content(run_dir.path)
        known = _knows(run_dir, config)
        for requested in (config, other):
            try:
                with claim(run_dir, requested):
                    assert {
                        k: v
                        for k, v in _content(run_dir.path).items()
                        if k != Path("lock")
                    } == before
                    assert requested is config and known or not run_dir.present()
                    outcome = "taken as it was"
            except ConfigError as error:
                assert str(error).startswith("run_dir: ") and "\n\n" not in str(error)
                outcome = "refused"
            assert _content(run_dir.path) == before if before else True
            count("run directories", outcome)
        shutil.rmtree(tmp_path / str(case), ignore_errors=True)
