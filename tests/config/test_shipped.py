"""Shipped configurations, by name and by path."""

from pathlib import Path

import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.config import shipped

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_every_file_of_configs_has_a_name() -> None:
    files = {path.resolve() for path in CONFIGS.rglob("*.yaml")}
    assert files == {path.resolve() for path in shipped.names().values()}
    assert {"quickstart", "gsm8k_tiny"} <= set(shipped.names())


@pytest.mark.parametrize("name", ["quickstart", "configs/quickstart.yaml"])
def test_a_name_works_in_any_folder(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.find(name).samefile(CONFIGS / "quickstart.yaml")


def test_a_name_of_a_subfolder(tmp_path, monkeypatch) -> None:
    (tmp_path / "compare").mkdir()
    path = tmp_path / "compare" / "all.yaml"
    path.touch()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.find("compare/all") == path


def test_a_file_takes_precedence_over_a_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "mine.yaml"):
        Path(name).touch()
        assert shipped.find(name) == Path(name)


def test_an_unknown_name_suggests_the_nearest_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="quickstrat does not exist.*mean quickstart"):
        shipped.find("quickstrat")
    with pytest.raises(UsageError, match="expected a YAML file or one of"):
        shipped.find("no/such/file.yaml")
