"""Write the results, tables and figures of a comparison into its folder."""

from collections.abc import Sequence

from targetsft_jax.command import DONE
from targetsft_jax.experiments.cell_results import results
from targetsft_jax.experiments.comparison.results import CellResult
from targetsft_jax.experiments.comparison.results import write as write_results
from targetsft_jax.experiments.comparison.write import write_report
from targetsft_jax.experiments.declaration import Comparison
from targetsft_jax.experiments.grid import Entry
from targetsft_jax.parallel.processes import is_primary
from targetsft_jax.storage.user_path import user_path


def write(comparison: Comparison, entries: Sequence[Entry]) -> int:
    """Write results.jsonl, tables and figures, and print the tables.

    Returns:
        The exit code.
    """
    if not is_primary():
        return DONE
    folder = user_path(comparison.run_dir)
    rows, unfinished = results(entries)
    if unfinished:
        first = unfinished[0].title
        print(f"{len(unfinished)} cells are not finished, such as {first}")
    if not rows:
        print("no cell has scores; set evaluation.problems")
        return DONE
    write_results(folder / "results.jsonl", rows)
    try:
        files = write_report(
            rows,
            folder,
            baseline=_baseline(comparison, rows),
            map_setting=comparison.map_setting,
        )
    except ValueError as error:
        # The tables are written before the figures.
        if "matplotlib" not in str(error):
            raise
        files = []
        print(f"no figures: {error}")
    print(f"\n{(folder / 'table.md').read_text(encoding='utf-8')}")
    figures = sum(file.suffix == ".png" for file in files)
    print(f"written to {folder}: results.jsonl, table.md, table.csv")
    if figures:
        print(f"  and {figures} figures in {folder / 'figures'}")
    return DONE


def _baseline(comparison: Comparison, rows: Sequence[CellResult]) -> str:
    """Label to which the others are compared: as declared, sft, or the first one."""
    labels = [row.label for row in rows if row.run_dir]
    if comparison.baseline is not None:
        return comparison.baseline
    return "sft" if "sft" in labels else labels[0]
