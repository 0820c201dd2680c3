"""Generate the parts of README.md and docs/ that follow from the code.

    python .ci/generated_docs.py --write

rewrites every block between `<!-- NAME -->` and `<!-- end -->`, where NAME is one of
the functions with `@part`, the pages of `method_pages.py` and the picture of
`targets_figure.py`. A test checks that they are current. A new part is one such
function and its markers in a page.
"""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "targetsft_jax"
KINDS = (".py", ".yaml", ".sh", ".jinja", ".js", ".css")
BESIDE = {
    "configs": "Shipped configurations: `--config NAME`.",
    "perf": "Measurements of time, memory and traffic, against alternatives and peers.",
    "launch": "Scripts that start a run in several processes.",
    ".ci": "Checks that every change must pass (`.ci/run`); generated documents.",
}

# The package of this checkout, not an installed one.
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

from method_pages import method_pages  # noqa: E402
from targets_figure import figures  # noqa: E402

PARTS: dict[str, Callable[[], str]] = {}


def part(function: Callable[[], str]) -> Callable[[], str]:
    """Register a function that generates the block of its name."""
    PARTS[function.__name__] = function
    return function


def pages() -> list[Path]:
    """List the files that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def current(text: str) -> str:
    """Rewrite all generated parts in the text of a page."""
    for name, make in PARTS.items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            mark, lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", text, flags=re.S
        )
    return text


def table(*rows: Iterable[str]) -> str:
    """Render a Markdown table; the first row is its header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    columns = lines[0].count("|") - 1
    return "\n".join([lines[0], "|" + "---|" * columns, *lines[1:]])


def codes(names: Iterable[str]) -> str:
    """Format names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


@part
def commands() -> str:
    """One row per command."""
    from targetsft_jax.commands import COMMANDS

    rows = [(f"`{name}`", sentence) for name, sentence in COMMANDS.items()]
    return table(("`targetsft …`", ""), *rows)


@part
def methods() -> str:
    """One row per method of METHODS, with a link to its page."""
    from targetsft_jax import METHODS
    from targetsft_jax.targets.describe import TABLE_HEADER, table_row

    rows = [
        table_row(entry).replace(f"`{name}`", f"[`{name}`](methods/{name}.md)", 1)
        for name, entry in METHODS.items()
    ]
    return "\n".join([TABLE_HEADER, *rows])


@part
def metrics() -> str:
    """One row per metric of METRICS."""
    from targetsft_jax.telemetry.metrics import markdown_table

    return markdown_table()


@part
def catalogue() -> str:
    """One row per data set of the catalogue, by subject."""
    from targetsft_jax.data.catalogue.maths import MATHS
    from targetsft_jax.data.catalogue.medical import MEDICAL

    rows: list[tuple[str, ...]] = [
        ("subject", "`dataset`", "contents", "splits", "licence")
    ]
    for subject, datasets in (("mathematics", MATHS), ("medicine", MEDICAL)):
        for name, dataset in datasets.items():
            link = f"[`{name}`]({dataset.homepage})"
            splits = codes(dataset.splits)
            rows.append((subject, link, dataset.about, splits, dataset.licence))
    return table(*rows)


@part
def row_shapes() -> str:
    """One row per shape of rows."""
    from targetsft_jax.data.shapes import SHAPES

    rows = [("`format`", "columns", "")]
    for name, shape in SHAPES.items():
        rows.append((f"`{name}`", codes(shape.columns), shape.about))
    return table(*rows)


@part
def benchmarks() -> str:
    """One row per benchmark."""
    from targetsft_jax.data.catalogue import CATALOGUE
    from targetsft_jax.evaluation.benchmarks import BENCHMARKS

    rows = [("`--benchmarks`", "", "problems", "grader", "data")]
    for name, entry in BENCHMARKS.items():
        assert entry.data.dataset is not None and entry.title is not None
        home = CATALOGUE[entry.data.dataset].homepage
        data = f"[`{entry.data.dataset}`]({home}), `{entry.data.split}`"
        size = f"{entry.published_size:,}"
        rows.append((f"`{name}`", entry.title, size, entry.grader, data))
    return table(*rows)


@part
def goodput() -> str:
    """One row per cause of time outside of steps."""
    from targetsft_jax.telemetry.goodput import CAUSES

    return table(("cause", "time"), *CAUSES.items())


@part
def layers() -> str:
    """The layers of the import contract, top to bottom."""
    return "```\n" + "\n".join(["commands", *map(" | ".join, _layers())]) + "\n```"


@part
def tree() -> str:
    """Every package with its docstring and files, by layers from the top."""
    sections = [_files("targetsft_jax/", "Commands and their shared modules.", PACKAGE)]
    for layer in _layers():
        for room in layer:
            folder = PACKAGE / room
            if folder.is_dir():
                about = _docstring(folder / "__init__.py")
                sections.append(_files(f"{room}/", about, folder, "**/*"))
    for name, about in BESIDE.items():
        sections.append(_files(f"{name}/ (outside the package)", about, ROOT / name))
    return "\n\n".join(sections)


@part
def run_directory() -> str:
    """One row per name in `RunDir`."""
    from targetsft_jax.storage.run_dir import RunDir

    run = RunDir(Path("RUN"))
    rows = [("file or folder", "content")]
    for name, value in vars(RunDir).items():
        if isinstance(value, property) and name != "name":
            path = getattr(run, name).relative_to("RUN").as_posix()
            rows.append((f"`{path}`", _sentence(inspect.getdoc(value) or "")))
    path = run.completions("MODEL").name
    rows.append((f"`{path}`", _sentence(inspect.getdoc(RunDir.completions) or "")))
    return table(*rows)


def _layers() -> list[list[str]]:
    """Read the packages of each layer from the contract in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    prefix = "targetsft_jax."
    return [
        [name.strip().removeprefix(prefix) for name in layer.split("|")]
        for layer in layers
    ]


def _files(title: str, about: str, folder: Path, pattern: str = "*") -> str:
    paths = sorted(p for p in folder.glob(pattern) if p.suffix in KINDS)
    if folder.name == "perf" or folder.name == "configs":
        paths = sorted(p for p in folder.glob("**/*") if p.suffix in KINDS)
    lines = [
        f"{path.relative_to(folder).as_posix():<26} {_sentence(_first_line(path))}"
        for path in paths
        if path.name != "__init__.py"
    ]
    return "\n".join([f"### {title}", "", about, "", "```", *lines, "```"])


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _first_line(path: Path) -> str:
    if path.suffix == ".py":
        return _docstring(path).partition("\n")[0]
    text = path.read_text(encoding="utf-8")
    opening, closing = r"(?:^# |^// |^/\* |\{#-? ?)", r"(?: ?-?#\}| \*/)?"
    comment = re.search(rf"{opening}([^!].*?){closing}$", text, re.M)
    return comment[1] if comment else ""


def _sentence(text: str) -> str:
    return " ".join(text.split())


def current_pages() -> dict[Path, str]:
    """Path and current text of all that is generated or has generated parts."""
    whole = method_pages() | figures()
    texts = {p: p.read_text(encoding="utf-8") for p in pages() if p not in whole}
    return {page: current(text) for page, text in texts.items()} | whole


if __name__ == "__main__":
    for page, after in current_pages().items():
        if page.is_file() and page.read_text(encoding="utf-8") == after:
            continue
        print(page.relative_to(ROOT))
        if "--write" in sys.argv:
            page.parent.mkdir(exist_ok=True)
            page.write_text(after, encoding="utf-8")
