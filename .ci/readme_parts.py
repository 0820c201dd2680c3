"""Generate the parts of README.md and docs/ that follow from the code.

    python .ci/readme_parts.py --write

replaces what is between `<!-- NAME -->` and `<!-- end -->` in each of FILES, for each
NAME in PARTS; a test checks that all of them are current.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (ROOT / "README.md", ROOT / "docs" / "observability.md")
FOLDERS = ("targetsft_jax", "configs", "perf", "launch", ".ci")
KINDS = (".py", ".yaml", ".sh")
INPUTS_OF_CUSTOM = "those of its residual"


def method_table() -> str:
    """One row for each entry of METHODS."""
    from targetsft_jax import METHODS

    rows = [
        "| method | a (label) | b (alternative) | (α, β) | inputs | hyper-parameters "
        "| source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        needs = method.needs
        inputs = INPUTS_OF_CUSTOM if callable(needs) else _code(needs)
        hyper = _code(f"{k}={v!r}" for k, v in method.defaults.items())
        cells = (f"`{name}`", method.label, method.alternative, method.mix)
        rows.append("| " + " | ".join([*cells, inputs, hyper, method.source]) + " |")
    return "\n".join(rows)


def tree() -> str:
    """Every source file with the first line of its docstring or comment."""
    lines = []
    for folder in FOLDERS:
        paths = [p for p in (ROOT / folder).rglob("*") if p.suffix in KINDS]
        by_parent = sorted(paths, key=lambda p: (p.parent.as_posix(), p.name))
        parent = None
        for path in by_parent:
            if path.parent != parent:
                parent = path.parent
                lines.append(f"{parent.relative_to(ROOT).as_posix()}/")
            lines.append(f"  {path.name:<20} {_first_line(path)}")
    lines.append("tests/  mirrors the package; tests/parity needs torch")
    return "```\n" + "\n".join(lines) + "\n```"


def metric_table() -> str:
    """One row for each entry of METRICS."""
    from targetsft_jax.telemetry.metrics import markdown_table

    return markdown_table()


def goodput_table() -> str:
    """One row for each cause of time outside of steps."""
    from targetsft_jax.telemetry.goodput import CAUSES

    rows = [f"| {cause} | {text} |" for cause, text in CAUSES.items()]
    return "\n".join(["| cause | time |", "|---|---|", *rows])


PARTS = {
    "methods": method_table,
    "tree": tree,
    "metrics": metric_table,
    "goodput": goodput_table,
}


def current(text: str) -> str:
    """The text of a file with its parts generated from the code."""
    for name, generate in PARTS.items():
        part = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.S)
        if part.search(text):
            content = generate()
            text = part.sub(lambda m, content=content: m[1] + content + m[2], text)
    return text


def _code(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _first_line(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    return comments[0].removeprefix("# ") if comments else ""


if __name__ == "__main__":
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if "--write" in sys.argv:
            path.write_text(current(text), encoding="utf-8")
        elif current(text) != text:
            print(f"{path.relative_to(ROOT)} is not current; run with --write")
