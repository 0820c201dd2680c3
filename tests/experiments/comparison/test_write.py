"""Report: the files of a comparison, and figures that are their CSV."""

import csv

import pytest

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.forest_figure import draw_forest, forest_data
from targetsft_jax.experiments.comparison.placement import place
from targetsft_jax.experiments.comparison.plane import plane_data, position
from targetsft_jax.experiments.comparison.scores_figure import draw_scores, scores_data
from targetsft_jax.experiments.comparison.statistics import statistics
from targetsft_jax.experiments.comparison.write import figures, write_report


def test_the_report_of_a_comparison_is_written(tmp_path, make_rows, monkeypatch):
    monkeypatch.setattr(style, "DPI", 20)
    rows = make_rows(settings=("",))
    files = write_report(rows, tmp_path / "report")
    names = {str(path.relative_to(tmp_path / "report")) for path in files}
    drawn = ("scores", "differences", "settings", "accuracy", "plane", "training",
             "label_prob")  # fmt: skip
    assert names == {"table.md", "table.csv"} | {
        f"figures/{name}.{suffix}" for name in drawn for suffix in ("png", "svg", "csv")
    }
    assert all(path.stat().st_size > 0 for path in files)
    for name, data, _ in figures(rows, statistics(rows)):
        with (tmp_path / f"report/figures/{name}.csv").open(newline="") as file:
            stored = list(csv.DictReader(file))
        assert len(stored) == len(data)
        assert stored[0].keys() == data[0].keys()
        assert stored[-1]["label"] == data[-1]["label"]


def test_equal_data_give_equal_svgs(tmp_path, make_rows):
    data = scores_data(statistics(make_rows(settings=("",), seeds=1)))
    texts = []
    for name in ("a", "b"):
        with style.parameters():
            style.save(draw_scores(data), tmp_path / name)
        texts.append((tmp_path / f"{name}.svg").read_bytes())
    assert texts[0] == texts[1]
    assert b"<dc:date>" not in texts[0]


def test_scores_have_a_dot_per_seed_in_the_registrys_order(make_rows):
    data = scores_data(statistics(make_rows(settings=("",))))
    with style.parameters():
        axis = draw_scores(data).axes[0]
    dots = [line for line in axis.lines if line.get_marker() in "oX^D"]
    drawn = [float(x) for line in dots for x in line.get_xdata()]
    assert drawn == [row["average"] for row in data]
    texts = [tick.get_text() for tick in axis.get_yticklabels()]
    assert texts[:4] == ["start", "teacher", "sft", "dft"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def test_forest_marks_0_and_the_differences(make_rows):
    data = forest_data(statistics(make_rows()))
    with style.parameters():
        axis = draw_forest(data).axes[0]
    assert any(list(line.get_xdata()) == [0, 0] for line in axis.lines)
    points = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    assert points == [r["difference"] for r in data if r["setting"] == "one"]


@pytest.mark.parametrize(
    "method, hyper, gamma, residual",
    [
        ("sft", {}, ("constant", 1.0), ("any", None)),
        ("dft", {}, ("probability", None), ("model", None)),
        ("kd", {}, ("constant", 0.0), ("teacher", None)),
        ("target_sft", {"eta": 1}, ("probability", None), ("guided", 1.0)),
        ("target_sft", {"gamma": 0.3}, ("constant", 0.3), ("guided", 0.5)),
        ("custom", {"gamma": 1}, ("constant", 1.0), ("model", None)),
        ("custom", {"residual": "guided"}, ("probability", None), ("guided", 0.5)),
        ("custom", {"gamma": {"power": 2}, "residual": {"mixed": 1}},
         ("power", 2.0), ("mixed", 1.0)),
    ],
)  # fmt: skip
def test_positions_on_the_plane(method, hyper, gamma, residual):
    place = position(method, hyper)
    assert (place.gamma, place.residual) == (gamma, residual)


def test_the_map_names_methods_and_refuses_an_unknown_setting(make_rows):
    computed = statistics(make_rows())
    cells = {row["label"]: row for row in plane_data(computed, "two")}
    assert cells["sft"]["named"] == "sft"
    assert cells["kd"]["named"] == "kd"
    assert cells["custom gamma=0.5 residual=teacher"]["named"] == "kd_h"
    score = computed.settings[1].scores["kd"].over_problems
    assert cells["kd"]["mean"] == 100 * score.value
    with pytest.raises(
        ValueError, match="'x' has no results; expected one of one, two"
    ):
        plane_data(computed, "x")


def test_numbers_beside_crowded_markers_do_not_overlap():
    points = [(50 + 5 * (n % 5), 50 + 5 * (n // 5)) for n in range(25)]
    centres = place(points, 8, 6, 2, (0, 0, 150, 150))
    for n, (x, y) in enumerate(centres):
        for u, v in centres[:n]:
            assert abs(x - u) >= 8 - 1e-9 or abs(y - v) >= 6 - 1e-9


def test_without_matplotlib_the_tables_are_written_and_the_extra_is_named(
    tmp_path, make_rows, monkeypatch
):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r'pip install "targetsft-jax\[report\]"'):
        write_report(make_rows(), tmp_path)
    assert (tmp_path / "table.md").exists()
    assert (tmp_path / "table.csv").exists()


def test_a_map_of_an_unfinished_setting_is_left_out(make_rows):
    rows = make_rows()
    names = [name for name, *_ in figures(rows, statistics(rows), "unfinished")]
    assert "plane" not in names and "scores" in names
