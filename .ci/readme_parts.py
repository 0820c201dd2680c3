"""Generate the parts of README.md that follow from the code: method table, file tree.

    python .ci/readme_parts.py --write

replaces them between their markers; a test checks that they are current.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FOLDERS = ("targetsft_jax", "configs", "perf", "launch", ".ci")
KINDS = (".py", ".yaml", ".sh")


def method_table() -> str:
    """One row for each entry of METHODS."""
    from targetsft_jax import METHODS
    from targetsft_jax.targets.describe import TABLE_HEADER, table_row

    return "\n".join([TABLE_HEADER, *map(table_row, METHODS.values())])


def tree() -> str:
    """Every source file with the first line of its docstring or comments."""
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
    """README's text with every part regenerated."""
    for name, make in PARTS.items():
        mark = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        text = re.sub(mark, lambda m, make=make: m[1] + make() + m[2], text, flags=re.S)
    return text


def _first_line(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    return comments[0].removeprefix("# ") if comments else ""


if __name__ == "__main__":
    readme = current(README.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        README.write_text(readme, encoding="utf-8")
    else:
        print(method_table() + "\n\n" + tree())
