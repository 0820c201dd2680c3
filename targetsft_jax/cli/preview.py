"""Preview of the rows of a run, as its configuration prepares them."""

from collections.abc import Sequence
from dataclasses import replace

from targetsft_jax.checkpoints.open import open_tokenizer
from targetsft_jax.config.checks import validate
from targetsft_jax.config.load import load, parse
from targetsft_jax.config.roles import teacher_prompt
from targetsft_jax.config.schema import Config
from targetsft_jax.data import preview, records


def preview_run(keys: Sequence[str], rows: int) -> None:
    """Print packed rows of a run and a report on its data.

    Args:
        keys: command line with the keys of the run.
        rows: number of rows to print.

    Raises:
        ConfigError, ValueError, OSError: a key or a file cannot be used.
    """
    config = _read(keys)
    data, n = config.evaluation.data, config.evaluation.problems or None
    preview.print_preview(
        config.data,
        open_tokenizer(config.student.path),
        records.problems(data or config.data, n=n) if n or data else None,
        cache_dir=config.cache_dir,
        held_out=config.validation.examples,
        rows=rows,
        seed=config.seed,
        teacher=teacher_prompt(config, config.data),
    )


def _read(keys: Sequence[str]) -> Config:
    """Configuration of a run; a teacher may be missing, since no weights are read."""
    config = parse(keys)
    if config.teacher.path or config.teacher.build or "--print-config" in keys:
        return load(keys)
    section = replace(config.teacher, path=config.student.path)
    if not config.student.path:
        section = replace(section, build=config.student.build)
    validate(replace(config, teacher=section))
    return config
