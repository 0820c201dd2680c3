"""Write the results, tables and figures of a comparison into its folder."""

from collections.abc import Sequence

from targetsft_jax.command import DONE
from targetsft_jax.experiments.cell_results import results
from targetsft_jax.experiments.comparison.results import write as write_results
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
    write_results(folder / "results.jsonl", rows)
    if unfinished:
        print(
            f"{len(unfinished)} cells are not finished, such as {unfinished[0].title}"
        )
    return DONE
