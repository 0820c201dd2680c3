"""Declaration of a comparison: a YAML file with settings, methods, seeds and tuning."""

import os
from collections.abc import Mapping
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.config.shipped import find
from targetsft_jax.config.tree import UnknownKey, build, merge, override
from targetsft_jax.keys import Domain, at_least, key, refusals, section
from targetsft_jax.storage import yaml_file
from targetsft_jax.storage.location import is_url

_RATES = Domain(
    "different rates above 0",
    lambda rates: (
        len(set(rates)) == len(rates) > 0 and all(0 < rate <= 100 for rate in rates)
    ),
)


@section
class Tuning:
    """Selection of the learning rate, for every method in every setting alike.

    Each rate trains one run; the rate with the highest Average@k is selected, the
    lower one of equal rates.
    """

    learning_rates: list[float] = key(
        lambda: [5e-4, 1.5e-3], "Rates of the list.", _RATES
    )
    problems: int = key(
        32, "Problems, behind those of the evaluation.", at_least(1, 10**7)
    )
    samples: int = key(4, "Completions per problem.", at_least(1, 2**16))
    seed: int = key(1000, "Seed of the trial runs.", at_least(0))


@section
class Comparison:
    """Comparison of methods from the same start on the same batches."""

    base: str = key("", "Base configuration of all cells, a file or a shipped name.")
    run_dir: str = key("", "Parent of the cells' run directories.")
    methods: list[Any] = key(
        list,
        "Names, or mappings of one name to its hyper-parameters; a list of values "
        "expands to one entry per value.",
    )
    seeds: list[int] = key(
        lambda: [0], "Seeds of the order of batches and of sampling."
    )
    more_seeds: dict[str, list[int]] = key(
        dict, "More seeds of some entries, by their names."
    )
    settings: dict[str, Any] = key(
        dict,
        "Name -> keys of the base that differ, such as models and data; none: the base "
        "alone.",
    )
    tuning: Tuning | None = key(
        None, "Selection of the learning rate; null: that of the base."
    )
    baseline: str | None = key(
        None, "Entry to which the others are compared; null: sft, else the first one."
    )
    map_setting: str | None = key(
        None, "Setting of the map of the plane; null: the first one."
    )


_NEEDED = ("base", "run_dir", "methods", "seeds")


def read_comparison(config: str, replacing: Mapping[str, str | None]) -> Comparison:
    """Read a comparison from a YAML file.

    Args:
        config: file or shipped name; a relative `base` in it is relative to the file.
        replacing: key -> YAML of an overriding value; None: no override.

    Raises:
        ConfigError: the file is not a valid comparison.
    """
    path = find(config)
    known = ", ".join(Comparison.__dataclass_fields__)
    try:
        tree = merge(Comparison, {}, yaml_file.read_mapping(path))
        for name, text in replacing.items():
            if text is not None:
                tree = override(Comparison, tree, name, text)
    except UnknownKey as error:
        text = f"{path}: {error} of a comparison; expected {known}"
        raise ConfigError(text) from None
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {error}") from None
    tree = {"seeds": [0], **tree}
    empty = [name for name in _NEEDED if not tree.get(name)]
    if empty:
        raise ConfigError(f"{path}: {empty[0]} is missing or empty")
    base = path.parent / tree["base"]
    if os.path.isfile(base):
        tree["base"] = str(base)
    comparison = build(Comparison, tree)
    for refusal in refusals(comparison):
        raise ConfigError(f"{path}: {refusal}")
    if is_url(comparison.run_dir):
        raise ConfigError(
            f"{path}: run_dir is {comparison.run_dir}; expected a local folder: a "
            "comparison reads its cells from there (checkpoint_dir may be a URL)"
        )
    return comparison
