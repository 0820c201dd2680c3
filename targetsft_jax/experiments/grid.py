"""Expand a comparison into cells: methods × hyper-parameters × seeds."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from targetsft_jax.config.checks import validate
from targetsft_jax.config.load import parse
from targetsft_jax.config.schema import Config, ConfigError, TargetConfig
from targetsft_jax.config.shipped import find
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.inputs import INPUTS


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
    methods: Sequence[str | Mapping[str, Mapping[str, Any]]]
    seeds: Sequence[int] = (0,)


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
    import yaml

    path = find(config)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        overrides = {k: yaml.safe_load(v) for k, v in replacing.items() if v}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from None
    known = Comparison.__dataclass_fields__
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} is {tree!r}; expected keys {', '.join(known)}")
    tree = {**tree, **overrides}
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise ConfigError(
            f"{path}: {unknown[0]} is not a key of a comparison; expected "
            f"{', '.join(known)}"
        )
    missing = [key for key in ("base", "run_dir", "methods") if not tree.get(key)]
    if missing:
        raise ConfigError(f"{path}: {missing[0]} is missing")
    base = path.parent / tree["base"]
    if base.is_file():
        tree["base"] = str(base)
    seeds = tree.get("seeds", [0])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds is {seeds!r}; expected whole numbers")
    if not isinstance(tree["methods"], list):
        raise ConfigError(f"{path}: methods is {tree['methods']!r}; expected a list")
    return Comparison(**tree)


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
    for (name, hyper), seed in itertools.product(
        _methods(comparison), comparison.seeds
    ):
        varied = "".join(f" {key}={value}" for key, value in hyper.items())
        cell = _cell(base, comparison.run_dir, name, varied, hyper, seed)
        if cell.config.run_dir in result:
            raise ConfigError(f"methods has {name}{varied} twice; remove one")
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
                f"methods has {entry!r}; expected a name, or one name with its "
                "hyper-parameters such as {target_sft: {eta: [0.3, 0.5]}}"
            )
        ((name, grid),) = entry.items()
        choices = [v if isinstance(v, list) else [v] for v in (grid or {}).values()]
        for values in itertools.product(*choices):
            yield name, dict(zip(grid or {}, values))


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
    settings = {k: v for k, v in base_target.items() if k != "name"} | dict(hyper)
    unknown = [key for key in hyper if key not in method.defaults]
    if unknown:
        raise ConfigError(
            f"methods: {name} has no hyper-parameter {unknown[0]}; it has "
            f"{', '.join(method.defaults) or 'none'}"
        )
    unread: dict[str, Any] = {
        key: None
        for key, entry in INPUTS.items()
        if entry.policy_sources and name != base.target.name
    }
    folder = (name + varied).replace(" ", "-").replace("/", "_")
    config = replace(
        base,
        run_dir=str(Path(run_dir) / folder / f"seed{seed}"),
        seed=seed,
        target=TargetConfig(name=name, **settings),
        policy=replace(base.policy, **unread),
    )
    validate(config)
    return Cell(name + varied, seed, config)
