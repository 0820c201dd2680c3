"""Table of `report` against the numbers of made-up runs."""

from targetsft_jax.experiments.runs import Run, read_runs
from targetsft_jax.experiments.summary import summary_table


def test_a_line_has_the_newest_values_of_a_run(tmp_path, write_run):
    write_run(tmp_path / "a", start=3.0)
    write_run(tmp_path / "long name", start=1.0)
    paths = [str(tmp_path / "a"), str(tmp_path / "long name")]
    heading, line, other = summary_table(read_runs(paths))
    assert heading.split() == (
        "run step loss val loss nll tok/s skipped goodput Average@k".split()
    )
    # 3/30; 3/30 + 0.1; one skipped step; 60 of 100 seconds in steps; a score of 1/3.
    assert line.split()[3:] == ("30 0.1000 0.2000 0.1000 5,000 1 60% 33.3 %".split())
    assert len(heading) == len(line) == len(other)
    assert line.startswith("a · sft ") and other.startswith("long name · sft ")


def test_a_missing_metric_is_a_dash():
    runs = [
        Run("a", [{"step": 1000, "gamma": 0.5}], [], {}),
        Run("b", [{"step": 2, "loss": 1.0}], [], {}),
    ]
    heading, a, b = summary_table(runs)
    assert heading.split() == ["run", "step", "loss", "γ", "skipped"]
    assert a.split() == ["a", "1,000", "–", "0.500", "0"]
    assert b.split() == ["b", "2", "1.0000", "–", "0"]
