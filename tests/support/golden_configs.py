"""Golden text of the resolved tree of every shipped configuration.

    python -m tests.support.golden_configs --write

A change of a default or of a key shows as a diff of these files.
"""

import sys
from pathlib import Path

from targetsft_jax.config.load import load, to_yaml

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "config" / "golden"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def resolved(path: Path) -> str:
    """The resolved tree of a configuration file as YAML.

    Models and data that a file leaves to the command line get stand-ins.
    """
    text = path.read_text(encoding="utf-8")
    arguments = ["--config", str(path)]
    if "source: jsonl" in text:
        arguments += ["--data.path", "x.jsonl"]
    if "build:" not in text:
        arguments += ["--student.path", "s", "--teacher.path", "t"]
    return to_yaml(load(arguments))


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit("usage: python -m tests.support.golden_configs --write")
    for config in CONFIGS:
        (GOLDEN / config.name).write_text(resolved(config), encoding="utf-8")
