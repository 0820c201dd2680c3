"""The parts of README.md that follow from the code: method table and file tree.

    python .ci/readme_parts.py --write

writes them anew between their markers; a test checks that they are current.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
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
    """Every file of the package and beside it with what it says of itself first."""
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


PARTS = {"methods": method_table, "tree": tree}


def current(text: str) -> str:
    """README's text with every part made anew."""
    for name, make in PARTS.items():
        mark = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(mark, lambda m, make=make: m[1] + make() + m[2], text, flags=re.S)
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
    made = current(README.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        README.write_text(made, encoding="utf-8")
    else:
        print(method_table() + "\n\n" + tree())
