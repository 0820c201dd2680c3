"""Examples of the documentation: they run, and print what they show."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_EXAMPLES = [path for path in PAGES if ">>> " in path.read_text(encoding="utf-8")]
MODULES = [
    "targetsft_jax.loss.fused",
    "targetsft_jax.targets.api",
    "targetsft_jax.targets.qtarget",
    "targetsft_jax.targets.trajectory",
]
"""Modules whose docstrings have examples."""


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), verbose=False)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_of_pages_run(path: Path) -> None:
    result = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


def test_the_python_of_the_readme_runs() -> None:
    import jax
    import jax.numpy as jnp

    hidden, head, *other = (
        jax.random.normal(key, (7, 4)) for key in jax.random.split(jax.random.key(0), 4)
    )
    names = {
        "logits": hidden @ head.T,
        "teacher_logits": other[0] @ other[1].T,
        "labels": jnp.arange(7),
        "hidden": hidden,
        "head": head,
        "teacher_hidden": other[0],
        "teacher_head": other[1],
        "loss_mask": jnp.ones(7),
        "my_loss": lambda z: -jax.nn.log_softmax(z)[..., 0],
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(block, names)
    dense = names["tsft"].objective(
        "target_sft",
        names["logits"],
        names["labels"],
        teacher_logits=names["teacher_logits"],
    )
    assert abs(names["loss"] - dense.mean()) < 1e-5


def test_commands_of_the_pages_exist() -> None:
    from targetsft_jax.commands import COMMANDS

    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for name in re.findall(r"^(?:\.venv/bin/)?targetsft (\w+)", block, re.M):
                assert name in COMMANDS, f"{path.name}: targetsft {name}"
            for name in re.findall(r"-m targetsft_jax\.(\w+)", block):
                assert name in COMMANDS, f"{path.name}: targetsft_jax.{name}"


def test_keys_of_the_migration_page_exist() -> None:
    """Every key of ours in the tables is one of the configuration."""
    from targetsft_jax.config.load import keys

    text = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    ours = [key for row in rows for key in re.findall(r"`(\w+\.\w+)[`:]", row[1])]
    assert len(ours) > 100
    assert not [key for key in ours if key not in keys()]
