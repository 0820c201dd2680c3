"""Write the tables and figures of a comparison into a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from targetsft_jax.experiments.comparison import csv_file, style
from targetsft_jax.experiments.comparison.accuracy_figure import draw_accuracy
from targetsft_jax.experiments.comparison.forest_figure import draw_forest, forest_data
from targetsft_jax.experiments.comparison.label_prob_figure import draw_label_prob
from targetsft_jax.experiments.comparison.plane import plane_data
from targetsft_jax.experiments.comparison.plane_figure import draw_plane
from targetsft_jax.experiments.comparison.probe_data import (
    accuracy_data,
    histogram_data,
)
from targetsft_jax.experiments.comparison.results import CellResult
from targetsft_jax.experiments.comparison.scores_figure import draw_scores, scores_data
from targetsft_jax.experiments.comparison.settings_figure import (
    draw_settings,
    settings_data,
)
from targetsft_jax.experiments.comparison.statistics import Statistics, statistics
from targetsft_jax.experiments.comparison.tables import markdown, table_rows
from targetsft_jax.experiments.comparison.training_figure import (
    draw_training,
    training_data,
)
from targetsft_jax.storage import atomic

Data = list[dict[str, Any]]
Draw = Callable[[Sequence[dict[str, Any]]], Any]


def write_report(
    rows: Sequence[CellResult],
    folder: Path,
    *,
    baseline: str = "sft",
    map_setting: str | None = None,
) -> list[Path]:
    """Write table.md, table.csv, and figures as PNG and SVG with their numbers as CSV.

    A figure without data, such as the map without composed targets, is not written.

    Args:
        rows: results of cells and of shared models, in any order.
        folder: folder of the tables; figures are in `figures` below it.
        baseline: label to which the others are compared.
        map_setting: setting of the map of the plane; None for the one with most
            composed targets.

    Returns:
        The files in the order of writing.

    Raises:
        ValueError: results that cannot be compared (see `statistics`), or, after the
            tables are written, matplotlib is not installed.
    """
    computed = statistics(rows, baseline=baseline)
    prepared = list(figures(rows, computed, map_setting))
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / "table.md", markdown(computed))
    files = [folder / "table.md"]
    files.append(csv_file.write(folder / "table.csv", table_rows(computed)))
    pictures = folder / "figures"
    with style.parameters():
        pictures.mkdir(exist_ok=True)
        for name, data, draw in prepared:
            files += style.save(draw(data), pictures / name)
            files.append(csv_file.write(pictures / f"{name}.csv", data))
    return files


def figures(
    rows: Sequence[CellResult],
    computed: Statistics,
    map_setting: str | None = None,
) -> Iterator[tuple[str, Data, Draw]]:
    """Yield the name, the numbers and the drawing function of each figure with data."""
    whole: Mapping[str, tuple[Data, Draw]] = {
        "scores": (scores_data(computed), draw_scores),
        "differences": (forest_data(computed), draw_forest),
        "settings": (settings_data(computed), draw_settings),
        "accuracy": (accuracy_data(rows), draw_accuracy),
    }
    for name, (data, draw) in whole.items():
        if data:
            yield name, data, draw
    # The setting of the map may not be finished yet.
    if map_setting is None or any(s.name == map_setting for s in computed.settings):
        plane = plane_data(computed, map_setting)
        if any(row["method"] == "custom" for row in plane):
            yield "plane", plane, draw_plane
    for setting in computed.settings:
        ending = f"_{setting.name}" if setting.name else ""
        for name, data, draw in (
            ("training", training_data(rows, setting.name), draw_training),
            ("label_prob", histogram_data(rows, setting.name), draw_label_prob),
        ):
            if data:
                yield name + ending, data, draw
