"""List and copies of the shipped configurations: `targetsft configs`."""

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.shipped import names
from targetsft_jax.configs import main
from targetsft_jax.experiments.declaration import read_comparison

NOTHING = dict.fromkeys(("methods", "seeds", "run_dir"))


@pytest.mark.parametrize("arguments", [[], ["ls"]])
def test_the_list_has_each_name_with_its_first_comment_line(arguments, capsys):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, path in names().items():
        (line,) = [each for each in lines if each.split()[0] == name]
        comment = path.read_text(encoding="utf-8").splitlines()[0]
        assert comment.startswith("# ") and line.endswith(comment[2:])


def test_a_copy_is_the_same_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cp", "quickstart"]) == 0
    assert "copied quickstart to quickstart.yaml" in capsys.readouterr().out
    assert load(["--config", "quickstart.yaml"]) == load(["--config", "quickstart"])


def test_a_copied_comparison_finds_its_base(tmp_path):
    file = tmp_path / "new" / "mine.yaml"
    assert main(["cp", "compare/quickstart", str(file)]) == 0
    base = read_comparison(str(file), NOTHING).base
    assert load(["--config", base]) == load(["--config", "quickstart"])


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "quickstart.yaml").write_text("mine")
    assert main(["cp", "quickstart", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "quickstart.yaml").read_text() == "mine"
