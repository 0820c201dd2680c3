"""Figure of runs: panels, layout, and the running mean against numpy."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from targetsft_jax.experiments import curves
from targetsft_jax.experiments.curves import draw, running_mean
from targetsft_jax.experiments.runs import Run, read_runs


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the test saves."""
    figures, save = [], Figure.savefig

    def saved(self, *arguments, **options):
        save(self, *arguments, **options)
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def _draw(folder, runs, drawn):
    draw(read_runs([str(folder / run) for run in runs]), folder / "curves.png")
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (figure,) = drawn
    titles = [(axis.get_title(loc="left"), axis) for axis in figure.axes]
    return figure, {title: axis for title, axis in titles if title}


@pytest.mark.parametrize("runs", [["a"], ["a", "a very long name of a run " * 3]])
def test_panels_of_one_run_and_of_several(runs, tmp_path, write_run, drawn):
    for run in runs:
        write_run(tmp_path / run, "target_sft")
    figure, panels = _draw(tmp_path, runs, drawn)
    histogram = (
        "γ, share of target tokens"
        if len(runs) == 1
        else "γ, share of target tokens, last step"
    )
    # Tokens per second are constant: no panel.
    assert list(panels) == [
        "loss (the method's own objective)",
        "NLL of the label, nats",
        histogram,
        "Average@16, %, 64 problems, 95 % interval",
        "wall time by cause",
    ]
    # Per run: raw, mean and held-out values, and two kinds of anomalies.
    assert len(panels["loss (the method's own objective)"].lines) == 5 * len(runs)
    assert len(figure.subfigs[0].legends) == (len(runs) > 1)
    title = figure.get_suptitle()
    assert title.startswith("a " if len(runs) == 1 else "2 runs ")
    assert "running means; dashed: held-out rows; ×: skipped step" in title


def test_long_names_do_not_shrink_the_panels(tmp_path, write_run, drawn):
    runs = ["a", "a very long name of a run " * 3]
    for run in runs:
        write_run(tmp_path / run)
    figure, panels = _draw(tmp_path, runs, drawn)
    whole = figure.transFigure.inverted()
    boxes = [axis.get_window_extent().transformed(whole) for axis in panels.values()]
    widths = [box.width for box in boxes]
    # Three columns, the wall time two of them wide.
    assert max(widths[:-1]) - min(widths[:-1]) < 0.06
    assert min(widths) > 0.22 and widths[-1] > 0.5
    for one in boxes:
        for other in boxes:
            assert one is other or not one.overlaps(other)


def test_a_histogram_over_steps_has_the_shares(tmp_path, write_run, drawn):
    write_run(tmp_path / "a")
    _, panels = _draw(tmp_path, ["a"], drawn)
    (mesh,) = panels["γ, share of target tokens"].collections
    np.testing.assert_allclose(np.asarray(mesh.get_array()) ** 2, 1 / 20, rtol=1e-12)


def test_wall_time_is_a_bar_of_shares(tmp_path, write_run, drawn):
    write_run(tmp_path / "a")
    _, panels = _draw(tmp_path, ["a"], drawn)
    axis = panels["wall time by cause"]
    widths = [bar.get_width() for bar in axis.patches]
    assert widths == pytest.approx([0.6, 0.2, 0.2])
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["steps", "compile", "save"]


def test_scores_are_points_with_their_intervals(tmp_path, write_run, drawn):
    write_run(tmp_path / "a", "dft", start=2.0)
    write_run(tmp_path / "b", "target_sft", start=4.0)
    _, panels = _draw(tmp_path, ["a", "b"], drawn)
    axis = panels["Average@16, %, 64 problems, 95 % interval"]
    names = [text.get_text() for text in axis.get_yticklabels()]
    # The frozen models are the same ones in both runs.
    assert names == ["start", "teacher", "a · dft", "b · target_sft"]
    values = [text.get_text() for text in axis.texts]
    assert values == ["10.0", "80.0", "50.0", "25.0"]
    ends = [bars.get_segments()[0][:, 0] for bars in axis.collections]
    np.testing.assert_allclose(ends[2], [50 - 9.8, 50 + 9.8])


def test_the_columns_of_one_run_are_equally_wide(tmp_path, drawn):
    rows = [{"step": n, "loss": 3.0 / n, "nll": 1e4 / n} for n in range(1, 9)]
    rows = [row | {"entropy": row["loss"]} for row in rows]
    histograms = [{"step": n, "gamma": [0.05] * 20} for n in (1, 5)]
    seconds = {"steps": 3.0, "compile": 1.0}
    draw([Run("a", rows, histograms, seconds)], tmp_path / "curves.png")
    boxes = [axis.get_position() for axis in drawn[0].axes[:3]]
    assert max(b.width for b in boxes) - min(b.width for b in boxes) < 1e-6
    gaps = [b.x0 - a.x1 for a, b in zip(boxes, boxes[1:])]
    assert max(gaps) < 0.08


def test_ticks_of_a_narrow_logarithmic_panel_are_plain_numbers(tmp_path, drawn):
    rows = [{"step": n, "grad_norm": 0.8 + n / 10} for n in range(5)]
    draw([Run("a", rows, [], {})], tmp_path / "curves.png")
    axis = drawn[0].axes[0]
    assert axis.get_yscale() == "log"
    texts = [tick.get_text() for tick in axis.get_yticklabels() if tick.get_text()]
    assert "1" in texts and all(float(text) > 0 for text in texts)


def test_a_missing_matplotlib_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r'pip install "targetsft-jax\[report\]"'):
        curves.draw([], tmp_path / "curves.png")


@pytest.mark.parametrize("length", [1, 5, 99, 100, 730])
def test_running_mean_equals_numpys_and_preserves_a_linear_trend(length):
    line = np.linspace(3, 9, length)
    np.testing.assert_allclose(running_mean(line.tolist()), line, rtol=1e-12)
    noisy = line + np.random.default_rng(0).normal(size=length)
    half = length // 100
    window = np.ones(2 * half + 1) / (2 * half + 1)
    inner = slice(half, length - half)
    expected = np.convolve(noisy, window, "valid")
    np.testing.assert_allclose(running_mean(noisy.tolist())[inner], expected)
