"""The data section of a configuration: sources, fields, filters, packing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from targetsft_jax.data.catalogue import CATALOGUE
from targetsft_jax.data.fields import FieldMap, literal_escape
from targetsft_jax.data.filters import conditions
from targetsft_jax.data.shapes import AUTO, SHAPES
from targetsft_jax.data.synthetic import KINDS
from targetsft_jax.data.thinking import MODES
from targetsft_jax.keys import (
    Domain,
    at_least,
    between,
    key,
    more_than,
    one_of,
    refusals,
    section,
)

FILES = ("files", "jsonl", "parquet")
SOURCES = ("synthetic", *FILES, "hf_dataset", "tfds")
SPLITS = ("train", "heldout")
OVERLONG = ("truncate", "drop", "error")
ON_BAD_ROW = ("error", "skip")


def _is_removable(pattern: str) -> bool:
    try:
        return re.compile(pattern).search("") is None
    except re.error:
        return False


def _is_kinds(weights: dict[str, float]) -> bool:
    return (
        weights.keys() <= KINDS.keys()
        and all(0 <= weight < float("inf") for weight in weights.values())
        and 0 < sum(weights.values()) < float("inf")
    )


_WEIGHTS = Domain(
    f"weights of 0 or more by kind ({', '.join(KINDS)}), at least one positive",
    _is_kinds,
)


@section
class SyntheticConfig:
    """Generated problems, without a file or a download."""

    kinds: dict[str, float] = key(
        lambda: {"addition": 1.0},
        f"Relative weight of each kind of problem: {', '.join(KINDS)}.",
        _WEIGHTS,
    )
    digits: int = key(
        3, "Digits of each summand of an addition, 1 to 9.", between(1, 9)
    )
    examples: int = key(4096, "Number of problems for training.", at_least(1, 10**7))
    label_noise: float = key(
        0.0,
        "Probability that a computed digit (or option letter) of a response is wrong.",
        between(0, 1),
    )
    shown_answers: float = key(
        0.0,
        "Share of the prompts that end in ` Answer: ` and the correct answer: a model "
        "built on them can use an answer in its prompt, as with `teacher.prompt`. "
        "Evaluated problems never show theirs.",
        between(0, 1),
    )
    critical_mask: bool = key(
        False,
        "Write the column critical_mask: 1 for computed characters, 0 for copied ones. "
        "Needs a tokenizer with one token per character.",
    )
    seed: int = key(
        0,
        "Seed of the problems; the splits are disjoint under any pair of seeds.",
        at_least(0),
    )
    split: str = key("train", "`train` or `heldout`.", one_of(SPLITS))


@section
class SourceConfig:
    """A source of examples."""

    source: str = key(
        "synthetic",
        "`synthetic` (generated problems), `files` (by the ends of their names; implied"
        " by `path`), `jsonl`, `parquet`, `hf_dataset` (a folder of the `datasets`"
        " library) or `tfds` (a data set of the catalogue).",
        one_of(SOURCES),
    )
    name: str | None = key(
        None,
        "Name of the source in reports; null: the name of the data set or of the file.",
    )
    path: str | list[str] | None = key(
        None,
        "One file, folder or pattern such as `data/*.jsonl`, or a list of them; the"
        " files of a folder or pattern are sorted by name. For `tfds` the folder of the"
        " published files, null to download them.",
    )
    dataset: str | None = key(
        None, "Name in the catalogue, for `source: tfds`.", one_of(CATALOGUE)
    )
    data_dir: str | None = key(
        None,
        "Folder of the built data sets of the catalogue; null:"
        " ~/.cache/targetsft_jax/datasets.",
    )
    split: str | None = key(
        None,
        "Split of an `hf_dataset` or of a data set of the catalogue; null: the training"
        " split, or the only one.",
    )
    format: str = key(
        AUTO,
        "Shape of the rows (docs/data.md); `auto`: by the names of their columns. Keys"
        " of `fields` that name a prompt or the messages replace it.",
        one_of((AUTO, *SHAPES)),
    )
    fields: FieldMap = key(
        FieldMap,
        "Map from the fields of a row to a conversation.",
    )
    where: dict[str, Any] = key(
        dict,
        "Row filter: conditions on the text of fields, all of which must hold. Per"
        " field, a text (equal), a list (one of), or a mapping of `not`, `matches` (a"
        " regular expression), `min`, `max` (of a number), `min_chars`, `max_chars`."
        " A null counts as empty text.",
    )
    remove: str | None = key(
        None,
        "Regular expression whose matches are removed from assistant turns, such as"
        " '<<[^>]*>>' for the calculator marks of GSM8K.",
        Domain("a regular expression that matches no empty text", _is_removable),
    )
    synthetic: SyntheticConfig = key(
        SyntheticConfig, "The generated problems, for `source: synthetic`."
    )
    limit: int | None = key(
        None,
        "Maximum number of usable rows to read, from the beginning; null: all.",
        at_least(1),
    )
    weight: float | None = key(
        None,
        "Weight of the source in a mixture: its relative share of the tokens per step;"
        " null for all sources: every row once per epoch.",
        more_than(0),
    )

    @property
    def kind(self) -> str:
        """The source; `files` if there is a path in place of generated problems."""
        return "files" if self.source == "synthetic" and self.path else self.source


@section
class DataConfig(SourceConfig):
    """Sources of examples, tokenization and packing into rows."""

    mixture: list[SourceConfig] = key(
        list,
        "Several sources instead of one, each with the keys of a source and a name.",
    )
    chat_template: str | None = key(
        None,
        "Chat template in place of the tokenizer's: a name (`qwen_boxed`, … in"
        " docs/data.md) or a path that ends in .jinja. Evaluation prompts use it too"
        " unless `evaluation.data` sets another; the export contains it.",
    )
    thinking: str = key(
        "keep",
        "Thinking blocks of assistant turns, `<think>…</think>`: `keep` or `drop`.",
        one_of(MODES),
    )
    max_length: int = key(
        1024,
        "Tokens per row.",
        Domain("2 to 2^24: a token and its label", lambda n: 2 <= n <= 2**24),
    )
    overlong: str = key(
        "truncate",
        "Examples longer than a row: `truncate`, `drop` or `error`.",
        one_of(OVERLONG),
    )
    on_bad_row: str = key(
        "error",
        "Unusable rows: `error` ends the run, `skip` counts and lists them.",
        one_of(ON_BAD_ROW),
    )
    max_dropped: float = key(
        0.5,
        "Largest share of the rows that may be skipped, dropped or truncated; above 5 %"
        " there is a warning.",
        between(0, 1),
    )
    packing: bool = key(
        True,
        "Pack several examples per row (attention respects segment ids); false: one.",
    )
    cache: bool = key(
        True,
        "Cache tokens and packed rows under `cache_dir`, for the next run. Generated"
        " problems are not cached.",
        resumable=True,
    )
    shuffle_seed: int = key(
        0,
        "Seed of the order in which examples are packed.",
        Domain("0 to 2^32 - 1", lambda seed: 0 <= seed < 2**32, largest=2**32 - 1),
    )


def sources(config: DataConfig) -> list[SourceConfig]:
    """Sources of the mixture, or the only one."""
    return list(config.mixture) or [config]


def source_name(config: SourceConfig) -> str:
    """Name of a source in reports and metrics."""
    if config.name:
        return config.name
    if config.source == "tfds":
        return config.dataset or "tfds"
    if config.path:
        return Path(paths(config)[0]).name
    return config.source


def paths(config: SourceConfig) -> list[str]:
    """The files of a source, in order."""
    path = config.path or []
    return [path] if isinstance(path, str) else list(path)


def origins(config: DataConfig) -> str:
    """The files of a data section, else the names of its sources, for messages."""
    return ", ".join(
        name for part in sources(config) for name in paths(part) or [source_name(part)]
    )


def validate(config: DataConfig, path: str = "data") -> None:
    """Check a data section without opening a file; raise on the first invalid key.

    Args:
        config: the section.
        path: its dotted path in the configuration, for messages.

    Raises:
        ValueError: `KEY is …; expected …`.
    """
    for refusal in refusals(config, f"{path}."):
        raise ValueError(refusal)
    for refusal in (*contradictions(config, path), *missing_files(config, path)):
        raise ValueError(refusal)


def contradictions(config: DataConfig, path: str = "data") -> Iterator[str]:
    """Errors about combinations of keys that are each valid alone."""
    if not config.mixture:
        if config.weight is not None:
            expected = "null: it belongs to a source of a mixture"
            yield _refusal(f"{path}.weight", config.weight, expected)
        yield from source_contradictions(config, path)
        return
    default = SourceConfig()
    for name in vars(default):
        value = getattr(config, name)
        if value != getattr(default, name):
            expected = f"nothing, since the sources are in {path}.mixture"
            yield _refusal(f"{path}.{name}", value, expected)
    names = [source_name(source) for source in config.mixture]
    weighted = any(source.weight is not None for source in config.mixture)
    for i, source in enumerate(config.mixture):
        yield from source_contradictions(source, f"{path}.mixture[{i}]")
        if names[i] in names[:i]:
            expected = "a name that no other source has"
            yield _refusal(f"{path}.mixture[{i}].name", names[i], expected)
        if weighted and source.weight is None:
            expected = "a number, since other sources have one"
            yield _refusal(f"{path}.mixture[{i}].weight", None, expected)


def missing_files(config: DataConfig, path: str = "data") -> Iterator[str]:
    """Errors about files and data sets that the sources need and no key specifies."""
    for number, source in enumerate(sources(config)):
        prefix = f"{path}.mixture[{number}]" if config.mixture else path
        yield from missing_files_of(source, prefix)


def missing_files_of(source: SourceConfig, path: str) -> Iterator[str]:
    """Errors about files or a data set that one source needs and lacks."""
    required = _required_path(source)
    if required is not None:
        expected = f"{required}, since source is {source.source}"
        yield _refusal(f"{path}.path", source.path, expected)
    if source.source == "tfds" and source.dataset is None:
        expected = f"one of {', '.join(CATALOGUE)}"
        yield _refusal(f"{path}.dataset", None, expected)


def source_contradictions(config: SourceConfig, path: str) -> Iterator[str]:
    """Errors about combinations of keys of one source."""
    kind = config.kind
    if config.format != AUTO and kind in ("synthetic", "tfds"):
        yield _refusal(f"{path}.format", config.format, f"auto, since source is {kind}")
    for name, kinds in (
        ("dataset", ("tfds",)),
        ("data_dir", ("tfds",)),
        ("split", ("files", "hf_dataset", "tfds")),
    ):
        value = getattr(config, name)
        if value is not None and kind not in kinds:
            expected = f"null, or {path}.source: {' or '.join(kinds)}"
            yield _refusal(f"{path}.{name}", value, expected)
    if kind == "synthetic":
        if config.where:
            expected = f"nothing, or {path}.path"
            yield _refusal(f"{path}.where", config.where, expected)
        return
    if kind == "tfds" and config.dataset is not None:
        yield from _catalogue_contradictions(config, path)
    try:
        conditions(config.where)
    except ValueError as error:
        yield f"{path}.where.{error}"
    fields = config.fields
    for name in ("messages", "text", "prompt", "response", "system", "answer"):
        template = getattr(fields, name)
        if template is not None and (escape := literal_escape(template)):
            expected = (
                f"a line break in place of {escape}, two characters: "
                f"--{path}.fields.{name} $'{template}' in the shell, and double quotes"
                " in YAML"
            )
            yield _refusal(f"{path}.fields.{name}", template, expected)
    if fields.prompt is None and fields.response is not None:
        expected = "a field, since fields.response is set"
        yield _refusal(f"{path}.fields.prompt", None, expected)
    if fields.text is not None:
        for name in ("prompt", "response", "system", "tools"):
            if getattr(fields, name) is not None:
                expected = f"null, since {path}.fields.text is set"
                yield _refusal(f"{path}.fields.{name}", getattr(fields, name), expected)
    named = next((n for n in ("text", "prompt") if getattr(fields, n)), "messages")
    if config.format != AUTO and getattr(fields, named) != getattr(FieldMap(), named):
        expected = f"auto, since {path}.fields.{named} is set"
        yield _refusal(f"{path}.format", config.format, expected)
    if fields.prompt is None and fields.messages is None:
        expected = "a field, since fields.prompt is null"
        yield _refusal(f"{path}.fields.messages", None, expected)


def _required_path(config: SourceConfig) -> str | None:
    """Path that the source lacks, in words; None if it lacks none."""
    if config.kind in FILES:
        return None if config.path else "a file, folder or pattern, or several"
    if config.kind == "hf_dataset" and not config.path:
        return "a folder"
    if config.path is not None and not isinstance(config.path, str):
        return "one folder"
    return None


def _catalogue_contradictions(config: SourceConfig, path: str) -> Iterator[str]:
    assert config.dataset is not None
    splits = CATALOGUE[config.dataset].splits
    expected = "one of " + ", ".join(splits)
    if config.split is not None and config.split not in splits:
        yield _refusal(f"{path}.split", config.split, expected)
    if config.split is None and "train" not in splits and len(splits) > 1:
        yield _refusal(f"{path}.split", None, expected)


def _refusal(name: str, value: object, expected: str) -> str:
    return f"{name} is {value!r}; expected {expected}"
