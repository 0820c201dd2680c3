"""Write the page of a command line or of a finished run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targetsft_jax.command import UsageError
from targetsft_jax.config.checks import validate
from targetsft_jax.config.load import parse
from targetsft_jax.config.roles import teacher_is_student, teacher_prompt
from targetsft_jax.config.schema import Config, TrainConfig, role_config
from targetsft_jax.data.teacher_rows import TeacherPrompt
from targetsft_jax.inspection.assemble import page_of
from targetsft_jax.inspection.method_inputs import BEFORE, REFERENCE, STUDENT, TEACHER
from targetsft_jax.inspection.models import Selection, load_models, page_tokenizer
from targetsft_jax.inspection.page import render
from targetsft_jax.inspection.page_data import PageData
from targetsft_jax.inspection.rows import LARGEST_TOKENS, data_of_file, read_rows
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

ROWS = 20
"""Rows of a page by default."""

_READ = ("cache_dir", "student", "teacher", "reference", "lora", "target", "policy")
"""Sections of a run that a page reads, besides `data`, `mesh` and `train.dtype`."""


@dataclass(frozen=True)
class PageOptions:
    """Options of the command beside the keys of a configuration.

    Attributes:
        run: run directory, whose end is compared with its start; None: a
            configuration alone.
        rows: number of examples; None: `ROWS`, or all of `rows_from`.
        rows_from: file in place of the configured data.
        before: path of an earlier model to compare with.
        out: file of the page; None: inspect.html, in the run directory of `run`.
    """

    run: str | None = None
    rows: int | None = None
    rows_from: str | None = None
    before: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Request:
    """A page to write.

    Attributes:
        config: configuration, as `read_config` returns it.
        selection: models in place of the configuration's.
        rows: number of examples; None for all.
        out: file of the page.
        name: the configuration in the user's words.
    """

    config: Config
    selection: Selection
    rows: int | None
    out: Path
    name: str


def read_request(arguments: Sequence[str], options: PageOptions) -> Request:
    """Read and check a command line; no data or model is opened.

    Args:
        arguments: `--config FILE` and keys of the configuration.
        options: the other options of the command.

    Raises:
        UsageError: an option or key is unknown, or cannot be used.
        SystemExit: after `--help`.
    """
    words, out = list(arguments), Path("inspect.html")
    if options.run is not None:
        run_dir = RunDir(user_path(options.run))
        if not run_dir.config.is_file():
            raise UsageError(
                f"--run {options.run} has no config.yaml; expected a run directory"
            )
        words, out = ["--run", options.run, *words], run_dir.inspect
        arguments = ["--config", str(run_dir.config), *arguments]
    rows = options.rows
    if rows is None and options.rows_from is None:
        rows = ROWS
    return Request(
        read_config(arguments, options.rows_from),
        Selection(options.run, options.before),
        rows,
        options.out or out,
        " ".join(words),
    )


def write_page(request: Request) -> Path:
    """Measure the rows and write the page; prints what it shows.

    Returns:
        The file.

    Raises:
        UsageError, ValueError, OSError: a model, file or row cannot be used.
    """
    if processes.is_multiprocess():
        raise UsageError("a page is written by one process; expected no mesh.processes")
    config, selection = request.config, request.selection
    tokenizer = page_tokenizer(config, selection)
    rows = read_rows(config.data, tokenizer, request.rows, _prompt(config))
    for line in (rows.source, *rows.lines()):
        print(f"  {line}", flush=True)
    models = load_models(config, selection)
    names = _names(config, selection) | {"config": request.name}
    if BEFORE not in models.roles:
        names.pop(BEFORE, None)
    for role in models.roles:
        print(f"  {role:<9} {names[role]}", flush=True)
    page = page_of(config, rows, models, tokenizer, names)
    for reason, methods in _refusals(page).items():
        print(f"  without {', '.join(methods)}: {reason}")
    html = render(page)
    atomic.write_text(request.out, html)
    trained = len(page.arrays["candidate"])
    print(f"  {trained:,} trained tokens, {len(html) / 1e6:.1f} MB\n{request.out}")
    return request.out


def read_config(arguments: Sequence[str], rows_from: str | None = None) -> Config:
    """The sections of a configuration that a page reads, checked; others are defaults.

    Args:
        arguments: `--config FILE` and keys.
        rows_from: file in place of the configured data.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or cannot be used.
        SystemExit: after `--help`.
    """
    return read_sections(parse(arguments), rows_from)


def read_sections(config: Config, rows_from: str | None = None) -> Config:
    """A configuration with defaults in place of what a page does not read."""
    data = config.data if rows_from is None else data_of_file(config.data, rows_from)
    sections = {name: getattr(config, name) for name in _READ}
    axes = dataclasses.replace(
        config.mesh, coordinator=None, processes=None, process=None
    )
    result = dataclasses.replace(
        Config(),
        **sections,
        data=data,
        mesh=axes,
        train=dataclasses.replace(TrainConfig(), dtype=config.train.dtype),
    )
    validate(result)
    return result


def _refusals(page: PageData) -> dict[str, list[str]]:
    """Reason -> methods that the page lacks for it."""
    reasons: dict[str, list[str]] = {}
    for method in page.header["methods"]:
        if method["refusal"] is not None:
            reasons.setdefault(method["refusal"], []).append(method["name"])
    return reasons


def _prompt(config: Config) -> TeacherPrompt | None:
    """Prompt of a teacher that has its own; rows of a stored one have any length."""
    teacher, live = config.teacher, teacher_prompt(config, config.data)
    if teacher.prompt is None or live is not None:
        return live
    return TeacherPrompt(teacher.prompt, LARGEST_TOKENS)


def _names(config: Config, selection: Selection) -> dict[str, str]:
    """Role -> its model in the user's words."""
    names = {}
    for role in (STUDENT, TEACHER, REFERENCE):
        section = role_config(config, role)
        if section.build is not None:
            names[role] = f"a generated model, trained for {section.build.steps} steps"
        elif section.path:
            names[role] = section.path
    if teacher_is_student(config):
        names[TEACHER] = names[STUDENT]
    if config.teacher.prompt is not None and TEACHER in names:
        names[TEACHER] += ", under teacher.prompt"
    if selection.student is not None:
        names[BEFORE], names[STUDENT] = names[STUDENT], selection.student
    if selection.before is not None:
        names[BEFORE] = selection.before
    return names
