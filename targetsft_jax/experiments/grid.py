"""Expand a comparison into cells: methods × hyper-parameters × seeds."""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.checks import validate
from targetsft_jax.config.load import parse
from targetsft_jax.config.schema import Config, ConfigError, TargetConfig
from targetsft_jax.config.shipped import find
from targetsft_jax.config.tree import UnknownKey, build, merge, override
from targetsft_jax.keys import refusals, shown, shown_name
from targetsft_jax.storage import yaml_file
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.inputs import INPUTS

_MOST_CELLS = 10_000


@dataclass(frozen=True)
class Comparison:
    """Comparison as declared in a YAML file.

    Attributes:
        base: base configuration of all cells, a file or a shipped name.
        run_dir: parent of the cells' run directories.
        methods: names, or mappings of one name to its hyper-parameters; a list of
            values expands to one cell per value.
        seeds: seeds of the order of batches and of sampling.
    """

    base: str
    run_dir: str
    methods: list[Any]
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: method and varied hyper-parameters, such as `target_sft eta=0.3`.
        seed: seed of the run.
        config: configuration of the run.
    """

    name: str
    seed: int
    config: Config


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
        for key, text in replacing.items():
            if text is not None:
                tree = override(Comparison, tree, key, text)
    except UnknownKey as error:
        text = f"{path}: {error} of a comparison; expected {known}"
        raise ConfigError(text) from None
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {error}") from None
    tree = {"seeds": [0], **tree}
    empty = [key for key in Comparison.__dataclass_fields__ if not tree.get(key)]
    if empty:
        raise ConfigError(f"{path}: {empty[0]} is missing or empty")
    base = path.parent / tree["base"]
    if os.path.isfile(base):
        tree["base"] = str(base)
    comparison = build(Comparison, tree)
    for refusal in refusals(comparison):
        raise ConfigError(f"{path}: {refusal}")
    return comparison


def cells(comparison: Comparison, arguments: Sequence[str] = ()) -> list[Cell]:
    """Expand a comparison into validated cells, in its order; seeds vary fastest.

    Args:
        comparison: methods, hyper-parameters and seeds.
        arguments: dotted overrides of the base configuration, for all cells.

    Raises:
        ConfigError: a cell is invalid or listed twice.
    """
    base = parse(["--config", comparison.base, *arguments])
    result: dict[str, Cell] = {}
    methods = list(_methods(comparison))
    if len(methods) * len(comparison.seeds) > _MOST_CELLS:
        raise ConfigError(
            f"methods and seeds expand to {len(methods) * len(comparison.seeds):,} "
            f"cells; expected at most {_MOST_CELLS:,}"
        )
    for (name, hyper), seed in itertools.product(methods, comparison.seeds):
        varied = "".join(f" {key}={value}" for key, value in hyper.items())
        cell = _cell(base, comparison.run_dir, name, varied, hyper, seed)
        if cell.config.run_dir in result:
            raise ConfigError(
                f"methods has {shown_name(name + varied)} twice, or seeds has {seed} "
                "twice; remove one"
            )
        result[cell.config.run_dir] = cell
    return list(result.values())


def _methods(comparison: Comparison) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each method with each choice of its varied hyper-parameters."""
    for entry in comparison.methods:
        if isinstance(entry, str):
            yield entry, {}
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ConfigError(
                f"methods has {shown(entry)}; expected a name, or one name with its "
                "hyper-parameters such as {target_sft: {eta: [0.3, 0.5]}}"
            )
        ((name, grid),) = entry.items()
        if not isinstance(grid, Mapping | None):
            raise ConfigError(
                f"methods: {name} has {shown(grid)}; expected hyper-parameters such as "
                "{eta: [0.3, 0.5]}"
            )
        choices = {
            k: v if isinstance(v, list) else [v] for k, v in (grid or {}).items()
        }
        empty = [key for key, values in choices.items() if not values]
        if empty:
            raise ConfigError(f"methods: {name}.{empty[0]} is []; expected a value")
        if math.prod(map(len, choices.values())) > _MOST_CELLS:
            raise ConfigError(
                f"methods: {name} expands to more than {_MOST_CELLS:,} cells; expected "
                "fewer values"
            )
        for values in itertools.product(*choices.values()):
            yield name, dict(zip(choices, values))


def _cell(
    base: Config,
    run_dir: str,
    name: str,
    varied: str,
    hyper: Mapping[str, Any],
    seed: int,
) -> Cell:
    """Derive a cell from the base: target, seed and run directory.

    Hyper-parameters and policy sources of another method in the base are dropped.
    """
    try:
        method = get_method(name)
    except ValueError as error:
        raise ConfigError(f"methods: {error}") from None
    base_target = vars(base.target) if base.target.name == name else {}
    settings = {k: v for k, v in base_target.items() if k != "name"}
    unknown = [key for key in hyper if key not in method.defaults]
    if unknown:
        raise ConfigError(
            f"methods: {name} has no hyper-parameter {shown_name(unknown[0])}; it has "
            f"{', '.join(method.defaults) or 'none'}"
        )
    unread: dict[str, Any] = {
        key: None
        for key, entry in INPUTS.items()
        if entry.policy_sources and name != base.target.name
    }
    # Only characters that no shell and no library treats as a pattern.
    folder = re.sub(r"[^\w.=+-]", "_", (name + varied).replace(" ", "-"))
    target = merge(TargetConfig, settings, {"name": name, **hyper}, "target.")
    config = replace(
        base,
        run_dir=str(Path(run_dir) / folder / f"seed{seed}"),
        seed=seed,
        target=build(TargetConfig, target),
        policy=replace(base.policy, **unread),
    )
    validate(config)
    return Cell(name + varied, seed, config)
