"""Tables: every number is that of the statistics."""

import pytest

from targetsft_jax.experiments.comparison.statistics import statistics
from targetsft_jax.experiments.comparison.tables import markdown, table_rows


def test_rows_have_the_numbers_in_per_cent(make_rows):
    computed = statistics(make_rows())
    rows = {(row["setting"], row["label"]): row for row in table_rows(computed)}
    assert len(rows) == 3 * 8
    score, row = computed.settings[1].scores["dft"], rows["two", "dft"]
    assert row["average"] == pytest.approx(100 * score.over_problems.value)
    assert row["difference_low"] == 100 * score.difference.over_problems.low
    assert rows["two", "sft"]["difference"] is None
    mean = rows["mean over settings", "kd"]["average"]
    assert mean == pytest.approx(
        (rows["one", "kd"]["average"] + rows["two", "kd"]["average"]) / 2
    )


def test_markdown_has_one_line_per_label_and_escapes_bars(make_rows):
    text = markdown(
        statistics(make_rows(methods=[("sft", "sft", {}), ("kd", "a|b", {})]))
    )
    assert text.count("| a\\|b |") == 3
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 3 * 4
    assert "**" in text.split("## one")[1]
    assert len({line.replace("\\|", "").count("|") for line in tables[4:8]}) == 1
