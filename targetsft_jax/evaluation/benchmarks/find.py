"""Find a benchmark by its name, a YAML file, a folder or a hub id."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.tree import UnknownKey, build, merge
from targetsft_jax.data.config import (
    SourceConfig,
    missing_files_of,
    source_contradictions,
)
from targetsft_jax.evaluation.benchmarks import eval_yaml
from targetsft_jax.evaluation.benchmarks.benchmark import Benchmark
from targetsft_jax.evaluation.benchmarks.registry import BENCHMARKS
from targetsft_jax.keys import refusals, shown_name
from targetsft_jax.storage import yaml_file
from targetsft_jax.storage.user_path import user_path


def find(name: str) -> Benchmark:
    """Find a benchmark.

    Args:
        name: a name in `BENCHMARKS`; a YAML file with the keys of `Benchmark`; an
            `eval.yaml` of the hub, its folder, or the id of a data set that has one,
            each optionally followed by `:TASK`.

    Raises:
        UsageError: no such benchmark; a file with other keys or values.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    place, _, task = name.partition(":")
    path = user_path(place)
    if path.is_dir():
        return _from_file(path / eval_yaml.FILE, task)
    if path.is_file() or place.endswith((".yaml", ".yml")):
        return _from_file(path, task)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        path = eval_yaml.download(place) / eval_yaml.FILE
        return replace(_from_file(path, task), hub=place)
    close = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f". Did you mean {close[0]}?" if close else ""
    raise UsageError(
        f"no benchmark {shown_name(name)}; expected one of {', '.join(BENCHMARKS)}, a "
        f"YAML file, or a folder or hub id with an {eval_yaml.FILE}{hint}"
    )


def _from_file(path: Path, task: str) -> Benchmark:
    try:
        tree = yaml_file.read_mapping(path)
    except (OSError, ValueError) as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise UsageError(f"{where}{error}") from None
    if "tasks" in tree:
        return eval_yaml.benchmark(tree, path, task)
    if task:
        raise UsageError(f"{path} has one benchmark; remove :{task} behind it")
    return _from_tree(tree, path)


def _from_tree(tree: Mapping[str, Any], path: Path) -> Benchmark:
    """Benchmark of a user's file; a relative data path is relative to the file."""
    known = ", ".join(Benchmark.__dataclass_fields__)
    try:
        benchmark = build(Benchmark, merge(Benchmark, {}, {"name": path.stem, **tree}))
    except UnknownKey as error:
        close = difflib.get_close_matches(
            error.path, Benchmark.__dataclass_fields__, n=1
        )
        hint = f". Did you mean {close[0]}?" if close else ""
        raise UsageError(f"{path}: {error}; expected {known}{hint}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    shots = None if benchmark.few_shot is None else benchmark.few_shot.data
    for message in (
        *refusals(benchmark),
        *benchmark.contradictions(),
        *_source_faults(benchmark.data, "data"),
        *_source_faults(shots, "few_shot.data"),
    ):
        raise UsageError(f"{path}: {message}")
    few_shot = benchmark.few_shot
    if few_shot is not None and few_shot.data is not None:
        few_shot = replace(few_shot, data=_beside(few_shot.data, path))
    return replace(benchmark, data=_beside(benchmark.data, path), few_shot=few_shot)


def _source_faults(source: SourceConfig | None, path: str) -> Iterator[str]:
    if source is not None:
        yield from source_contradictions(source, path)
        yield from missing_files_of(source, path)


def _beside(source: SourceConfig, path: Path) -> SourceConfig:
    """Source whose paths, if relative to the file, are absolute where they exist."""
    paths = source.path
    if paths is None:
        return source

    def resolved(name: str) -> str:
        beside = path.parent / user_path(name)
        return str(beside) if os.path.exists(beside) else name

    absolute = (
        resolved(paths) if isinstance(paths, str) else [resolved(p) for p in paths]
    )
    return replace(source, path=absolute)
