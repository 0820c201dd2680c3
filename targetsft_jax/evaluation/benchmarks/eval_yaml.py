"""Read `eval.yaml`, the hub's description of an evaluation beside its data set.

The part that this package measures alike: the solvers system_message, prompt_template,
generate and multiple_choice, and the scorers math, choice, match and exact. Everything
else is refused by its name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.data.config import SourceConfig
from targetsft_jax.evaluation.benchmarks.benchmark import (
    CHOICE_PROMPT,
    INSTRUCTION,
    Benchmark,
)
from targetsft_jax.keys import shown, shown_name

FILE = "eval.yaml"

SOLVERS = ("system_message", "prompt_template", "generate", "multiple_choice")
SCORERS = {"math": "math", "choice": "choice", "match": "exact", "exact": "exact"}
"""Scorer of the file -> grader."""

_FILE_KEYS = ("name", "description", "evaluation_framework", "tasks")
_TASK_KEYS = (
    "id",
    "config",
    "split",
    "field_spec",
    "shuffle_choices",
    "epochs",
    "epoch_reducer",
    "solvers",
    "scorers",
)
_HOLES = ("prompt", "question", "choices")
_FIELD_KEYS = ("input", "target", "choices", "metadata")


def benchmark(tree: Mapping[str, Any], path: Path, task: str = "") -> Benchmark:
    """Benchmark of a task of an `eval.yaml`.

    Args:
        tree: content of the file.
        path: the file, whose folder has the data.
        task: id of the task; empty: the only one.

    Raises:
        UsageError: an unknown task, key, solver or scorer, or a value of another type.
    """
    try:
        return _benchmark(tree, path, task)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def download(repository: str) -> Path:
    """Download the files of a data set of the hub that evaluations read.

    Raises:
        UsageError: the data set cannot be downloaded or has no `eval.yaml`.
    """
    import huggingface_hub

    patterns = [FILE, "*.parquet", "*.jsonl", "*.jsonl.gz", "*.json"]
    try:
        folder = huggingface_hub.snapshot_download(
            repository, repo_type="dataset", allow_patterns=patterns
        )
    except Exception as error:  # Errors of other libraries pass through the client.
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"{repository} cannot be downloaded from the hub ({type(error).__name__}: "
            f"{reason}); download it on a machine with network access and specify the "
            "folder"
        ) from None
    if not (Path(folder) / FILE).is_file():
        raise UsageError(f"{repository} has no {FILE} on the hub")
    return Path(folder)


def _benchmark(tree: Mapping[str, Any], path: Path, name: str) -> Benchmark:
    _known("", tree, _FILE_KEYS)
    number, task = _select(tree["tasks"], name)
    where = f"tasks[{number}]"
    _known(f"{where}.", task, _TASK_KEYS)
    fields = task.get("field_spec")
    if not isinstance(fields, Mapping) or not {"input", "target"} <= fields.keys():
        raise UsageError(
            f"{where}.field_spec is {shown(fields)}; expected a mapping with input and "
            "target"
        )
    _known(f"{where}.field_spec.", fields, _FIELD_KEYS)
    if task.get("epoch_reducer") not in (None, "mean", ["mean"]):
        raise UsageError(
            f"{where}.epoch_reducer is {shown(task['epoch_reducer'])}; expected mean"
        )
    shuffle = task.get("shuffle_choices")
    choices = _choices(fields.get("choices"), f"{where}.field_spec.choices")
    grader = _grader(task.get("scorers"), where)
    if grader == "choice" and choices is None:
        raise UsageError(
            f"{where}.field_spec.choices is null; expected the field of the options, "
            "since the scorer is choice"
        )
    system, prompt = _solvers(task.get("solvers") or [], where, choices is not None)
    folder = _folder(path.parent, task.get("config"), f"{where}.config")
    return Benchmark(
        name=re.sub(r"[^\w.+-]", "_", str(task.get("id") or path.parent.name))[:60],
        grader=grader,
        data=SourceConfig(
            source="hf_dataset",
            path=str(folder),
            split=_text(task.get("split", "test"), f"{where}.split"),
        ),
        question=_text(fields["input"], f"{where}.field_spec.input"),
        answer=_text(fields["target"], f"{where}.field_spec.target"),
        options=choices,
        system=system,
        prompt=prompt,
        shuffle_options=_seed(shuffle, f"{where}.shuffle_choices"),
        samples=_whole(task.get("epochs"), f"{where}.epochs"),
    )


def _folder(root: Path, config: Any, where: str) -> Path:
    """Folder with the files of a configuration of the data set."""
    if config in (None, "default"):
        return root
    folder = root / _text(config, where)
    if not folder.is_dir() or not folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{where} is {shown(config)}; expected a folder of {root}, or default"
        )
    return folder


def _choices(value: Any, where: str) -> str | list[str] | None:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if value is not None and not (is_list and value or isinstance(value, str)):
        raise UsageError(f"{where} is {shown(value)}; expected a field or several")
    return value


def _select(tasks: Any, name: str) -> tuple[int, Mapping[str, Any]]:
    if not isinstance(tasks, list) or not all(isinstance(t, Mapping) for t in tasks):
        raise UsageError(f"tasks is {shown(tasks)}; expected a list of tasks")
    ids = [str(task.get("id", number)) for number, task in enumerate(tasks)]
    if name and name not in ids:
        raise UsageError(f"no task {shown_name(name)}; expected {', '.join(ids)}")
    if not name and len(tasks) != 1:
        raise UsageError(
            f"the file has {len(tasks)} tasks; expected one of {', '.join(ids)} behind "
            "a colon"
        )
    number = ids.index(name) if name else 0
    return number, tasks[number]


def _solvers(
    solvers: Any, where: str, has_choices: bool
) -> tuple[str | None, str | None]:
    """System message and prompt of the solvers."""
    if not isinstance(solvers, list):
        raise UsageError(f"{where}.solvers is {shown(solvers)}; expected a list")
    system = None
    prompt = CHOICE_PROMPT if has_choices else "{question}"
    for solver, arguments, path in _calls(solvers, f"{where}.solvers"):
        if solver not in SOLVERS:
            raise UsageError(
                f"{path} is {shown_name(solver)}; expected one of {', '.join(SOLVERS)}"
            )
        reads = ("template",) if solver != "generate" else ()
        _known(f"{path}.args.", arguments, reads)
        template = arguments.get("template")
        if template is None:
            continue
        template = _text(template, f"{path}.args.template")
        if solver == "system_message":
            system = template
        elif "{prompt}" in template or "{question}" in template:
            prompt = _prompt(template, has_choices, f"{path}.args.template")
        else:
            raise UsageError(
                f"{path}.args.template is {shown(template)}; expected a text with "
                "{prompt}"
            )
    if has_choices and INSTRUCTION not in prompt and "{options}" not in prompt:
        prompt += "\n{options}"
    return system, prompt


def _prompt(template: str, has_choices: bool, where: str) -> str:
    """Template of the file in this package's terms; its braces are doubled there."""
    other = set(re.findall(r"(?<!\{)\{(\w+)\}", template)) - {*_HOLES}
    if other:
        raise UsageError(
            f"{where} has {{{min(other)}}}; expected only "
            f"{', '.join(f'{{{name}}}' for name in _HOLES)}"
        )
    template = template.replace("{choices}", "{options}")
    question = "{question}" if "{options}" in template or not has_choices else None
    template = template.replace("{prompt}", question or "{question}\n{options}")
    return template.replace("{{", "{").replace("}}", "}")


def _grader(scorers: Any, where: str) -> str:
    if not isinstance(scorers, list) or len(scorers) != 1:
        raise UsageError(
            f"{where}.scorers is {shown(scorers)}; expected a list of one of "
            f"{', '.join(SCORERS)}"
        )
    ((scorer, arguments, path),) = _calls(scorers, f"{where}.scorers")
    if scorer not in SCORERS:
        raise UsageError(
            f"{path} is {shown_name(scorer)}; expected one of {', '.join(SCORERS)}"
        )
    _known(f"{path}.args.", arguments, ())
    return SCORERS[scorer]


def _calls(calls: list[Any], where: str) -> list[tuple[str, Mapping[str, Any], str]]:
    """Names and arguments of solvers or scorers, with their paths in the file."""
    result = []
    for number, call in enumerate(calls):
        path = f"{where}[{number}]"
        if isinstance(call, str):
            call = {"name": call}
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise UsageError(f"{path} is {shown(call)}; expected a mapping with name")
        _known(f"{path}.", call, ("name", "args"))
        arguments = call.get("args") or {}
        if not isinstance(arguments, Mapping):
            raise UsageError(f"{path}.args is {shown(arguments)}; expected a mapping")
        result.append((call["name"], arguments, path))
    return result


def _known(prefix: str, tree: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in tree:
        if name not in names:
            expected = ", ".join(names) or "no arguments"
            raise UsageError(
                f"{prefix}{shown_name(str(name))} is not supported; expected {expected}"
            )


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{path} is {shown(value)}; expected a text")
    return value


def _whole(value: Any, path: str) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value <= 2**16):
        raise UsageError(f"{path} is {shown(value)}; expected a whole number from 1")
    return value


def _seed(value: Any, path: str) -> int | None:
    """Seed of shuffled options; True is seed 0."""
    if value is None or value is False:
        return None
    if value is True:
        return 0
    if type(value) is not int or value < 0:
        raise UsageError(f"{path} is {shown(value)}; expected true, false or a seed")
    return value
