"""Write the table of docs/families.md from the measurements of the parity tests.

    ALL_FAMILIES=1 python -m pytest tests/parity --junitxml=families.xml
    python .ci/families_table.py families.xml

A test contributes by recording properties: "family" with its model_type, and any of
`COLUMNS` with a number (the table shows the worst) or True. Several reports are merged.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from targetsft_jax.hf.families import FAMILIES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
COLUMNS = (
    "import",
    "export",
    "parity error",
    "gradient error",
    "bf16 error / theirs",
    "packed",
    "LoRA",
    "generate",
)


def measurements(reports):
    """Read (family, column) -> recorded values.

    Raises:
        SystemExit: a test failed; the table would omit its values.
    """
    values = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                sys.exit(f"{report}: {case.get('classname')}.{case.get('name')} failed")
            properties = [
                (p.get("name"), p.get("value")) for p in case.iter("property")
            ]
            family = dict(properties).get("family")
            for name, value in properties:
                if family is not None and name in COLUMNS:
                    values.setdefault((family, name), []).append(value)
    return values


def cell(values):
    """Render the worst number or "yes", and the number of tests; "–" without any."""
    if not values:
        return "–"
    if set(values) == {"True"}:
        return f"yes ({len(values)})"
    worst = max(map(float, values))
    shown = f"{worst:.2f}" if worst > 0.01 else f"{worst:.0e}"
    return f"{shown} ({len(values)})"


def table(values):
    """Render a Markdown table with one row per family."""
    lines = [
        "| model_type | models | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for name, family in FAMILIES.items():
        cells = [cell(values.get((name, column))) for column in COLUMNS]
        lines.append(f"| `{name}` | {family.models} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    rows = table(measurements(sys.argv[1:]))
    mark = r"(<!-- table -->\n).*?(<!-- end -->)"
    text = PAGE.read_text(encoding="utf-8")
    text, times = re.subn(mark, lambda m: f"{m[1]}{rows}\n{m[2]}", text, flags=re.S)
    if times != 1:
        sys.exit(f"{PAGE} has {times} pairs of table marks; expected one")
    PAGE.write_text(text, encoding="utf-8")
    print(rows)
