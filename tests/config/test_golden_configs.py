"""Shipped configurations against their committed resolved trees."""

from pathlib import Path

import pytest
from support import golden_configs


@pytest.mark.parametrize("path", golden_configs.CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_tree_equals_the_committed_one(path: Path) -> None:
    committed = (golden_configs.GOLDEN / path.name).read_text(encoding="utf-8")
    assert golden_configs.resolved(path) == committed, (
        "if the change is intended: python -m tests.support.golden_configs --write"
    )
