"""Golden text of the `--help` pages of commands that take a section's keys.

    python -m tests.support.golden_help --write

A change of a most used key or of a section shows as a diff of these files.
"""

import sys
from pathlib import Path

from targetsft_jax.config.help import TRAIN, Page
from targetsft_jax.evaluation.settings import HELP as EVALUATE

GOLDEN = Path(__file__).resolve().parents[1] / "config" / "golden_help"
PAGES: dict[str, Page] = {"train": TRAIN, "evaluate": EVALUATE}


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("usage: python -m tests.support.golden_help --write")
    for name, page in PAGES.items():
        (GOLDEN / f"{name}.txt").write_text(page.text(), encoding="utf-8")
