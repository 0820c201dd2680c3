"""Check the data of a run against its models and its method, before any weights."""

from collections.abc import Iterable, Mapping

from targetsft_jax.config.roles import teacher_prompt
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.targets.inputs import INPUTS


def check_positions(config: Config, models: Mapping[str, DecoderConfig]) -> None:
    """Check that no row is longer than the positions of a model.

    The limit is `DecoderConfig.context_length`. It holds for the key, not for the
    longest example: positions restart with each example of a row, so rows within the
    limit hold the same examples, and the check needs no data.

    Args:
        config: configuration of the run or plan.
        models: name -> architecture of the student and of each model of the step.

    Raises:
        ConfigError: `data.max_length`, `validation.data.max_length` or
            `teacher.max_length` exceeds it.
    """
    sections = {"data": config.data}
    if config.validation.data is not None:
        sections["validation.data"] = config.validation.data
    for section, data in sections.items():
        prompt = teacher_prompt(config, data)
        for name, model in models.items():
            key, length = f"{section}.max_length", data.max_length
            if prompt is not None and name.startswith("teacher"):
                key, length = "teacher.max_length", prompt.max_length
            if length > model.context_length:
                raise ConfigError(
                    f"{key} is {length:,} and the {name} has"
                    f" {model.context_length:,} positions (max_position_embeddings of"
                    f" its config.json); expected at most {model.context_length:,}:"
                    f" lower {key}, or extend the model with rope_scaling"
                )


def check_weights(config: Config, datasets: Iterable[Dataset]) -> None:
    """Check that the columns of the method weigh some label of each data set.

    Raises:
        ConfigError: a column is 0 for every trained label, so nothing is trained.
    """
    for dataset in datasets:
        report = dataset.report
        for name in config.method.columns:
            if not INPUTS[name].weighs:
                continue
            if report.zero_weights.get(name) == report.examples:
                raise ConfigError(
                    f"{name} is 0 for all {report.trained_tokens:,} trained tokens of"
                    f" the {report.examples:,} examples in the data, so method"
                    f" {config.method.name!r} would train nothing; expected some other"
                    " value, or another target.name"
                )
