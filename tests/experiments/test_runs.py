"""Runs read from made-up run directories."""

import pytest

from targetsft_jax.experiments.runs import read_runs
from targetsft_jax.telemetry.metrics import METRICS


def _names(*paths):
    return [run.name for run in read_runs([str(path) for path in paths])]


def test_truncated_lines_and_non_finite_values_are_omitted(tmp_path, write_run):
    write_run(tmp_path / "a")
    (run,) = read_runs([str(tmp_path / "a")])
    steps, values = run.series("loss")
    assert len(run.rows) == 30 and 10 not in steps and len(steps) == 29
    assert values[0] == 2.0
    assert run.series("kl_teacher") == ([], [])


def test_histograms_with_null_are_omitted(tmp_path, write_run):
    write_run(tmp_path / "a")
    with (tmp_path / "a/histograms.jsonl").open("a") as file:
        file.write('{"step": 30, "gamma": [null, 1.0]}\n')
    (run,) = read_runs([str(tmp_path / "a")])
    assert run.distributions("gamma")[0] == [1, 10, 20]
    assert run.distributions("entropy") == ([], [])


def test_a_summary_is_the_newest_value_or_the_sum_or_the_goodput(tmp_path, write_run):
    write_run(tmp_path / "a", goodput=0.9)
    (run,) = read_runs([str(tmp_path / "a")])
    assert run.summary(METRICS["loss"]) == pytest.approx(2 / 30)
    assert run.summary(METRICS["skipped"]) == 1
    # The goodput of the complete run, not that of its last step.
    assert run.summary(METRICS["goodput"]) == pytest.approx(0.6)
    assert run.summary(METRICS["kl_teacher"]) is None


def test_folders_of_runs_are_searched_three_levels_down(tmp_path, write_run):
    for path in ("grid/sft", "grid/x/dft/seed0", "grid/x/dft/seed1", "grid/x/y/z/deep"):
        write_run(tmp_path / path, path.split("/")[-2] if "dft" in path else "sft")
    assert _names(tmp_path / "grid") == ["sft", "seed0 · dft", "seed1 · dft"]
    write_run(tmp_path / "grid/x/sft/seed0")
    # Starting one level lower, the deepest run is found.
    assert _names(tmp_path / "grid/x") == [
        "dft/seed0",
        "dft/seed1",
        "sft/seed0",
        "z/deep · sft",
    ]


def test_nested_runs_and_overlapping_paths_count_once(tmp_path, write_run):
    write_run(tmp_path / "a", "target_sft")
    write_run(tmp_path / "a/compare/sft")
    # The method is not repeated: the path has its name.
    (tmp_path / "a/compare/sft/config.yaml").unlink()
    paths = (tmp_path / "a", tmp_path / "a/compare", tmp_path / "a")
    assert _names(*paths) == ["a · target_sft", "sft"]


def test_names_are_the_shortest_distinct_ends_of_the_paths(tmp_path, write_run):
    write_run(tmp_path / "one/run", "dft")
    write_run(tmp_path / "two/run", "target_sft")
    paths = (tmp_path / "one/run", tmp_path / "two/run")
    assert _names(*paths) == ["one/run · dft", "two/run · target_sft"]
    assert _names(tmp_path / "one/run") == ["run · dft"]
    # A method inside another word does not count.
    write_run(tmp_path / "target_sft", "sft")
    assert _names(tmp_path / "target_sft") == ["target_sft · sft"]


def test_runs_without_a_step_in_a_folder_of_runs_are_omitted(tmp_path, write_run):
    write_run(tmp_path / "grid/dft")
    (tmp_path / "grid/sft").mkdir()
    (tmp_path / "grid/sft/metrics.jsonl").write_text('{"step": 1, "lo')
    assert len(read_runs([str(tmp_path / "grid")])) == 1
    with pytest.raises(ValueError, match="metrics.jsonl has no step yet"):
        read_runs([str(tmp_path / "grid/sft")])


def test_a_path_without_a_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ValueError, match=f"{path} has no metrics.jsonl"):
            read_runs([str(path)])


def test_damaged_values_of_metrics_are_left_out(tmp_path, write_run):
    folder = tmp_path / "run"
    write_run(folder)
    lines = [
        '{"step": 1e999}',
        '{"step": true, "loss": 1}',
        '{"step": 31, "loss": "x", "nll": [1]}',
        '{"step": 32, "loss": true, "nll": 1e999}',
    ]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")
    with (folder / "histograms.jsonl").open("a") as file:
        file.write('{"step": 21, "gamma": 5}\n{"step": 22, "gamma": ["x"]}\n')
    (folder / "config.yaml").write_text("a: &a [*a]\n")
    (run,) = read_runs([str(folder)])
    assert run.series("loss")[0][-1] == run.series("nll")[0][-1] == 30
    assert run.distributions("gamma")[0] == [1, 10, 20]


def test_a_loop_of_links_is_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"loop has no metrics\.jsonl"):
        read_runs([str(tmp_path / "loop")])
