"""Pages of the documentation, one per method: `docs/methods/NAME.md`.

Written and checked by `generated_docs.py`. Formula, inputs and hyper-parameters come
from `METHODS` and its docstrings, measured rows from the tables in `docs/results.md`
and `docs/real_model.md`.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "methods"


def method_pages() -> dict[Path, str]:
    """Path and text of every page."""
    from targetsft_jax import METHODS

    return {FOLDER / f"{name}.md": _page(name) for name in METHODS}


def _page(name: str) -> str:
    from targetsft_jax.targets.describe import describe

    about = describe(name)
    sections = [f"# {name}", f"{about.title}."]
    if about.equation:
        sections.append(textwrap.indent(about.equation, "    "))
    sections += [
        _normal_form(about),
        "## Configuration",
        _configuration(about),
        _inputs(about),
        _hyper_parameters(about),
        "## From Python",
        _call(about),
        _measured(name),
    ]
    if about.source is not None:
        sections += ["## Paper", f"See *{about.source.title}* ({about.source.url})."]
    sections.append(f"[All methods](../methods.md)\n\n{GENERATED}")
    return "\n\n".join(filter(None, sections)) + "\n"


GENERATED = (
    "<!-- Generated from the entry of the method: "
    "python .ci/generated_docs.py --write -->"
)


def _normal_form(about: Any) -> str:
    table = (
        "| a, the weight of the label | b, the weight of T | (α, β) of T "
        "| residual π̃ |\n|---|---|---|---|\n"
        f"| {about.label} | {about.alternative} | {about.mix} | {about.residual} |"
    )
    mix = ", T = softmax(α·z + β·z_other)" if about.mix.startswith("(") else ""
    return (
        f"Its normal form, with γ = a and Q = p − g:\n\n"
        f"    g = a·(p − δ_y) + b·(p − T){mix}\n\n{table}"
    )


def _configuration(about: Any) -> str:
    keys = [f"  {key}: {_yaml(hyper.default)}" for key, hyper in about.hyper.items()]
    roles = [
        f"{role}:\n  path: {path}"
        for role, path in (
            ("teacher", "…  # a model with the student's vocabulary"),
            ("reference", "null  # null: the initial student"),
        )
        if f"{role}_logits" in (about.inputs or ())
    ]
    yaml = "\n".join(["target:", f"  name: {about.name}", *keys, *roles])
    # The η of the quickstart's file is that of its own method.
    shared = about.name != "target_sft" and "eta" in about.hyper
    eta = " --target.eta null" if shared else ""
    options = f"\\\n  --target.name {about.name}{eta}"
    if "critical_mask" in (about.inputs or ()):
        options += " --data.synthetic.critical_mask true"
    command = f"targetsft train --config quickstart --run_dir runs/{about.name}"
    return (
        f"```yaml\n{yaml}\n```\n\nOn a CPU within minutes, with the small models of "
        f"the quickstart:\n\n```bash\n{command} {options}\n```"
    )


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def _inputs(about: Any) -> str:
    if about.inputs is None:
        return (
            "Inputs depend on `gamma` and `residual`: a teacher, a reference model or "
            "a column of the data where they name one."
        )
    lines = [f"- `{key}`: {_source_of(key)}" for key in about.inputs]
    return "\n".join(["Inputs of a run:", "", *lines]) if lines else ""


def _source_of(key: str) -> str:
    from targetsft_jax.targets.inputs import INPUTS

    entry = INPUTS[key]
    if entry.per == "model":
        role = key.removesuffix("_logits")
        return f"logits of the model in the section `{role}`"
    if entry.policy_sources:
        sources = ", ".join(entry.policy_sources)
        return f"from `policy.{key}` ({sources}); see [policies](../policies.md)"
    return "a column of the data; see [data](../data.md)"


def _hyper_parameters(about: Any) -> str:
    rows = []
    for key, hyper in about.hyper.items():
        help_ = hyper.help.replace("|", "\\|")
        moves = "yes" if hyper.schedulable else "no"
        expected = hyper.domain.expected.replace("|", "\\|")
        default = _yaml(hyper.default)
        rows.append(f"| `target.{key}` | {default} | {expected} | {moves} | {help_} |")
    if not rows:
        return ""
    header = "| key | default | values | schedule | |\n|---|---|---|---|---|\n"
    return header + "\n".join(rows)


def _call(about: Any) -> str:
    inputs = "".join(f", {key}={key}" for key in about.inputs or ())
    call = f'tsft.target("{about.name}", logits, labels{inputs})'
    if len(call) > 76:
        arguments = "\n".join(f"    {key}={key}," for key in about.inputs)
        first = f'    "{about.name}",\n    logits,\n    labels,'
        call = f"tsft.target(\n{first}\n{arguments}\n)"
    return (
        f"```python\nimport targetsft_jax as tsft\n\nq = {call}\n"
        "q.gamma, q.residual(), q.induced()  # γ, π̃ and Q of every token\n```"
    )


def _measured(name: str) -> str:
    """Rows of the method, and of SFT beside it, in the tables of measurements."""
    parts = []
    for page, marker, caption in (
        ("results", "mean over settings", "Average@16 in %, six small settings"),
        ("real_model", "held-out NLL", "SmolLM2-135M on GSM8K, after 8 steps"),
    ):
        header, rows = _table(DOCS / f"{page}.md", marker)
        if name in rows:
            shown = [rows[key] for key in dict.fromkeys(("sft", name))]
            table = "\n".join([*header, *shown])
            parts.append(f"{caption} ([{page}.md](../{page}.md)):\n\n{table}")
    return "\n\n".join(["## Measured", *parts]) if parts else ""


def _table(page: Path, marker: str) -> tuple[list[str], dict[str, str]]:
    """Header lines and rows, by method, of the table whose header has a text."""
    lines = page.read_text(encoding="utf-8").splitlines()
    matches = [
        k for k, line in enumerate(lines) if line.startswith("|") and marker in line
    ]
    if len(matches) != 1:
        raise ValueError(
            f"{page.name}: {len(matches)} tables with {marker!r}; expected 1"
        )
    start = matches[0]
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        label = line.split("|")[1].strip()
        rows[re.sub(r"\W+", "_", label.lower())] = line
    return lines[start : start + 2], rows
