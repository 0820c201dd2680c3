"""Table of families: measurements of passed tests."""

import runpy
from pathlib import Path

import pytest

from targetsft_jax.hf.families import FAMILIES

SCRIPT = Path(__file__).parents[1] / ".ci" / "families_table.py"
CASE = """<testcase classname="t" name="{name}"><properties>
<property name="family" value="llama"/><property name="{column}" value="{value}"/>
</properties>{end}</testcase>"""


def report(folder, *cases):
    texts = [CASE.format(**{"name": n, "end": "", **c}) for n, c in enumerate(cases)]
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(texts)}</testsuite></testsuites>")
    return [path]


def test_cells_have_the_worst_number_and_the_count(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    cases = [{"column": "parity error", "value": x} for x in (1e-6, 3e-6, 2e-7)]
    reports = report(tmp_path, *cases, {"column": "export", "value": True})
    lines = script["table"](script["measurements"](reports)).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[:2] for row in rows[2:]] == [
        [f"`{name}`", family.models] for name, family in FAMILIES.items()
    ]
    llama = dict(zip(rows[0], rows[2]))
    assert llama["parity error"] == "3e-06 (3)" and llama["export"] == "yes (1)"
    assert llama["LoRA"] == "–"


def test_a_failed_test_is_refused(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    failed = {"column": "packed", "value": 1e-6, "end": "<failure/>"}
    with pytest.raises(SystemExit, match="t.0 failed"):
        script["measurements"](report(tmp_path, failed))


def test_the_page_has_every_family_and_the_marks_of_the_table():
    page = runpy.run_path(str(SCRIPT))["PAGE"].read_text(encoding="utf-8")
    assert page.count("<!-- table -->") == page.count("<!-- end -->") == 1
    for name, family in FAMILIES.items():
        assert f"| `{name}` | {family.models} |" in page
