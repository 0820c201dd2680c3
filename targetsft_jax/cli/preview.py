"""Preview of the rows of a run, as its configuration prepares them."""

from collections.abc import Sequence

from targetsft_jax.checkpoints.open import open_tokenizer
from targetsft_jax.config.load import load
from targetsft_jax.data import preview, records


def preview_run(keys: Sequence[str], rows: int) -> None:
    """Print packed rows of a run and a report on its data.

    Args:
        keys: command line with the keys of the run.
        rows: number of rows to print.

    Raises:
        ConfigError, ValueError, OSError: a key or a file cannot be used.
    """
    config = load(keys)
    data, n = config.evaluation.data, config.evaluation.problems or None
    preview.print_preview(
        config.data,
        open_tokenizer(config.student.path),
        records.problems(data or config.data, n=n) if n or data else None,
        cache_dir=config.cache_dir,
        held_out=config.validation.examples,
        rows=rows,
        seed=config.seed,
    )
