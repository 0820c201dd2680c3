"""Shipped configurations resolve to the committed text."""

from pathlib import Path

import pytest
from support import golden_configs


@pytest.mark.parametrize("path", golden_configs.CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_tree_is_the_committed_one(path: Path) -> None:
    kept = (golden_configs.GOLDEN / path.name).read_text(encoding="utf-8")
    assert golden_configs.resolved(path) == kept, (
        "if the change is meant: python -m tests.support.golden_configs --write"
    )
