"""Expand a comparison into cells: settings × methods × hyper-parameters × seeds."""

import itertools
import json
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
from targetsft_jax.config.tree import build, merge
from targetsft_jax.experiments.declaration import Comparison, Tuning
from targetsft_jax.keys import shown, shown_name
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.inputs import INPUTS

_MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        setting: name of its setting; "" if the comparison has none.
        name: method and varied hyper-parameters, such as `target_sft eta=0.3`.
        seed: seed of the run.
        config: configuration of the run.
        is_trial: True for a run that only selects the learning rate.
    """

    setting: str
    name: str
    seed: int
    config: Config
    is_trial: bool = False

    @property
    def title(self) -> str:
        """Setting, name and seed, or the learning rate of a trial, in one line."""
        last = f"seed {self.seed}"
        if self.is_trial:
            last = f"trial of learning rate {self.config.train.learning_rate:g}"
        return ", ".join(filter(None, [self.setting, self.name, last]))


@dataclass(frozen=True)
class Entry:
    """One method with its hyper-parameters in one setting.

    Attributes:
        setting, name: as in `Cell`.
        hyper: hyper-parameters that the comparison sets.
        seeds: seeds of its cells.
        config: configuration of its cells, but for seed, run directory and rate.
        folder: parent of the cells' run directories.
        tuning: selection of the learning rate; None: that of the configuration.
    """

    setting: str
    name: str
    hyper: dict[str, Any]
    seeds: list[int]
    config: Config
    folder: Path
    tuning: Tuning | None = None

    @property
    def title(self) -> str:
        """Setting and name in one line."""
        return ", ".join(filter(None, [self.setting, self.name]))

    def cells(self, learning_rate: float | None = None) -> list[Cell]:
        """Return the cells of all seeds.

        Args:
            learning_rate: selected rate; None: that of the configuration.
        """
        train = self.config.train
        if learning_rate is not None:
            train = replace(train, learning_rate=learning_rate)
        return [
            Cell(
                self.setting,
                self.name,
                seed,
                replace(
                    self.config,
                    **self._folders(f"seed{seed}"),
                    seed=seed,
                    train=train,
                ),
            )
            for seed in self.seeds
        ]

    def trials(self) -> list[Cell]:
        """Return the runs that select the learning rate, one per rate of the list.

        They are measured on the problems behind those of the evaluation.
        """
        if self.tuning is None:
            return []
        tuning, evaluation = self.tuning, self.config.evaluation
        problems = replace(
            evaluation,
            skip=evaluation.skip + evaluation.problems,
            problems=tuning.problems,
            samples=tuning.samples,
            include_teacher=False,
            label_probe=0,
        )
        return [
            Cell(
                self.setting,
                self.name,
                tuning.seed,
                replace(
                    self.config,
                    **self._folders(f"trial{rate:g}"),
                    seed=tuning.seed,
                    train=replace(self.config.train, learning_rate=rate),
                    evaluation=problems,
                ),
                is_trial=True,
            )
            for rate in tuning.learning_rates
        ]

    def _folders(self, name: str) -> dict[str, Any]:
        """Run directory of a cell, and a folder of its own for its checkpoints."""
        folder, above = self.folder / name, self.config.checkpoint_dir
        if above is None:
            return {"run_dir": str(folder)}
        below = "/".join(folder.parts[-3:])
        return {"run_dir": str(folder), "checkpoint_dir": f"{above}/{below}"}


def entries(comparison: Comparison, arguments: Sequence[str] = ()) -> list[Entry]:
    """Expand a comparison into validated entries, setting by setting, in its order.

    Args:
        comparison: declaration of the comparison.
        arguments: dotted overrides of the base configuration, for all cells.

    Raises:
        ConfigError: a cell is invalid or listed twice.
    """
    methods = list(_methods(comparison.methods))
    settings = comparison.settings or {"": {}}
    cells = len(settings) * len(methods) * len(comparison.seeds)
    if cells > _MOST_CELLS:
        raise ConfigError(
            f"settings, methods and seeds expand to {cells:,} cells; expected at most "
            f"{_MOST_CELLS:,}"
        )
    _check_names(comparison, methods)
    result: dict[Path, Entry] = {}
    for setting, keys in settings.items():
        base = _base(comparison, setting, keys, arguments)
        for name, hyper in methods:
            entry = _entry(comparison, base, setting, name, hyper)
            if entry.folder in result:
                raise ConfigError(
                    f"methods has {shown_name(entry.name)} twice; remove one"
                )
            result[entry.folder] = entry
    return list(result.values())


def _base(
    comparison: Comparison,
    setting: str,
    keys: Mapping[str, Any],
    arguments: Sequence[str],
) -> Config:
    """Configuration of a setting: the base, its keys, then the overrides."""
    if setting and not re.fullmatch(r"[\w.+-]{1,60}", setting):
        raise ConfigError(
            f"settings has the name {shown(setting)}; expected at most 60 letters, "
            "digits or any of _ . + -"
        )
    if not isinstance(keys, Mapping):
        raise ConfigError(
            f"settings.{setting} is {shown(keys)}; expected keys of a configuration "
            "such as {data: {synthetic: {label_noise: 0.3}}}"
        )
    base = ["--config", comparison.base]
    try:
        overrides = [
            part
            for key, value in keys.items()
            for part in (f"--{key}", _argument(value))
        ]
    except (TypeError, ValueError):
        raise ConfigError(
            f"settings.{setting} has a value of another type than text, number, list "
            "or mapping"
        ) from None
    try:
        parse([*base, *overrides])
    except ConfigError as error:
        where = f"settings.{setting}: " if setting else ""
        raise ConfigError(f"{where}{error}") from None
    config = parse([*base, *overrides, *arguments])
    if config.inspect.rows:
        raise ConfigError(
            f"inspect.rows is {config.inspect.rows}; expected 0, since a comparison "
            "writes no pages (`targetsft inspect --run RUN` writes that of a cell)"
        )
    return config


def _argument(value: Any) -> str:
    """Text of a value on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _check_names(
    comparison: Comparison, methods: Sequence[tuple[str, Mapping[str, Any]]]
) -> None:
    """Raise ConfigError for a repeated seed, or an entry or setting that is absent."""
    names = {_name(name, hyper) for name, hyper in methods}
    settings = set(comparison.settings)
    for key, value, known in (
        *(("more_seeds has", name, names) for name in comparison.more_seeds),
        ("baseline is", comparison.baseline, names),
        ("map_setting is", comparison.map_setting, settings),
    ):
        if value is not None and value not in known:
            raise ConfigError(
                f"{key} {shown_name(value)}; expected one of "
                f"{', '.join(sorted(known)[:8]) or 'none, since there are no settings'}"
            )
    for seeds in comparison.more_seeds.values():
        _check_distinct([*comparison.seeds, *seeds])
    _check_distinct(comparison.seeds)


def _check_distinct(seeds: Sequence[int]) -> None:
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise ConfigError(f"seeds has {seed} twice; remove one")


def _methods(methods: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each method with each choice of its varied hyper-parameters."""
    for entry in methods:
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


def _name(method: str, hyper: Mapping[str, Any]) -> str:
    """Name of an entry: `target_sft eta=0.3`, `custom gamma=power:0.5`."""
    return method + "".join(f" {key}={_short(value)}" for key, value in hyper.items())


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{_short(part)}" for key, part in value.items())
    return str(value)


def _entry(
    comparison: Comparison,
    base: Config,
    setting: str,
    method_name: str,
    hyper: Mapping[str, Any],
) -> Entry:
    """Derive an entry from the base of its setting.

    Hyper-parameters and policy sources of another method in the base are dropped.
    """
    try:
        method = get_method(method_name)
    except ValueError as error:
        raise ConfigError(f"methods: {error}") from None
    name = _name(method_name, hyper)
    base_target = vars(base.target) if base.target.name == method_name else {}
    settings = {k: v for k, v in base_target.items() if k != "name"}
    unknown = [key for key in hyper if key not in method.defaults]
    if unknown:
        raise ConfigError(
            f"methods: {method_name} has no hyper-parameter {shown_name(unknown[0])}; "
            f"it has {', '.join(method.defaults) or 'none'}"
        )
    unread: dict[str, Any] = {
        key: None
        for key, declared in INPUTS.items()
        if declared.policy_sources and method_name != base.target.name
    }
    # Only characters that no shell and no library treats as a pattern.
    part = re.sub(r"[^\w.=+-]", "_", name.replace(" ", "-"))
    folder = Path(os.path.join(comparison.run_dir, setting, part))
    target = merge(TargetConfig, settings, {"name": method_name, **hyper}, "target.")
    config = replace(
        base,
        target=build(TargetConfig, target),
        policy=replace(base.policy, **unread),
    )
    seeds = [*comparison.seeds, *comparison.more_seeds.get(name, [])]
    entry = Entry(setting, name, dict(hyper), seeds, config, folder, comparison.tuning)
    try:
        for cell in (*entry.cells()[:1], *entry.trials()):
            validate(cell.config)
    except UsageError as error:
        where = f"{setting}, {name}: " if setting else ""
        raise ConfigError(f"{where}{error}") from None
    return entry
