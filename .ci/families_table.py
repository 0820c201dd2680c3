"""Write the table of docs/families.md from the measurements of the parity tests.

    python -m pytest tests/parity --junitxml=families.xml
    python .ci/families_table.py families.xml

A test takes part by recording properties: "family" with its model_type, and any of
`COLUMNS` with a number (the worst one is shown) or True. Several reports may be given.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from targetsft_jax.hf.families import FAMILIES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
MODELS = {
    "llama": "Llama 2, 3.x; DeepSeekMath-7B",
    "qwen2": "Qwen2, Qwen2.5 (also Math)",
    "qwen3": "Qwen3 (dense)",
    "mistral": "Mistral 7B",
    "gemma2": "Gemma-2",
    "gemma3_text": "Gemma-3 (text)",
    "phi3": "Phi-3 4k, Phi-4",
}
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


def measured(reports):
    """(family, column) -> every value that a test recorded.

    Raises:
        SystemExit: a test failed, so the reports are incomplete.
    """
    values = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                sys.exit(f"{report}: {case.get('classname')}.{case.get('name')} failed")
            properties = [
                (each.get("name"), each.get("value")) for each in case.iter("property")
            ]
            family = dict(properties).get("family")
            for name, value in properties:
                if family is not None and name in COLUMNS:
                    values.setdefault((family, name), []).append(value)
    return values


def cell(values):
    """The worst number, with the number of tests; yes for True; a dash without any."""
    if not values:
        return "–"
    if set(values) == {"True"}:
        return f"yes ({len(values)})"
    worst = max(map(float, values))
    text = f"{worst:.2f}" if worst > 0.01 else f"{worst:.0e}"
    return f"{text} ({len(values)})"


def table(values):
    """One row per family."""
    lines = [
        "| model_type | models | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for family in FAMILIES:
        cells = [cell(values.get((family, column))) for column in COLUMNS]
        lines.append(f"| `{family}` | {MODELS[family]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    rows = table(measured(sys.argv[1:]))
    mark = r"(<!-- table -->\n).*?(<!-- end -->)"
    text = PAGE.read_text(encoding="utf-8")
    text, times = re.subn(mark, lambda m: f"{m[1]}{rows}\n{m[2]}", text, flags=re.S)
    if times != 1:
        sys.exit(f"{PAGE} has {times} places for the table; expected one")
    PAGE.write_text(text, encoding="utf-8")
    print(rows)
