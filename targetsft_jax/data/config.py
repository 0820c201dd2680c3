"""What the data section of a run's configuration may say."""

import dataclasses
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targetsft_jax.data.filters import conditions

FILES = ("jsonl", "parquet")
SOURCES = ("synthetic", *FILES, "hf_dataset", "tfds")
KINDS = ("addition", "dosing")
SPLITS = ("train", "heldout")
OVERLONG = ("truncate", "drop", "error")
ON_BAD_ROW = ("error", "skip")
THINKING = ("keep", "drop")


@dataclass(frozen=True)
class FieldMap:
    """Which parts of a row are the conversation.

    Each value is the name of a field (`question`), a field inside a field
    (`options.A`), or a template with holes, as in
    `"{CONTEXTS}\\n\\nQuestion: {QUESTION}"`. A list in a hole is joined by newlines;
    a literal brace is written twice.
    """

    messages: str | None = "messages"
    """Field with the list of {"role", "content"}; used where `prompt` is not set."""
    prompt: str | None = None
    """What the user says."""
    response: str | None = None
    """What the assistant is trained to say; needed to train where `prompt` is set."""
    system: str | None = None
    """A system message put before the others."""
    answer: str | None = None
    """The gold answer, or a worked solution that ends in it; evaluation needs it."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Generated problems: no file, no download, as many as asked for."""

    kinds: dict[str, float] = field(default_factory=lambda: {"addition": 1.0})
    """Relative weight of each kind of problem: `addition`, `dosing`."""
    digits: int = 3
    """Digits of both numbers of an addition, 1 to 9."""
    examples: int = 4096
    """How many problems are generated for training."""
    label_noise: float = 0.0
    """Chance that a computed digit (or option letter) of a response is wrong."""
    seed: int = 0
    """Which problems; the two splits share none under any pair of seeds."""
    split: str = "train"
    """`train` or `heldout`."""


@dataclass(frozen=True)
class SourceConfig:
    """Where examples come from."""

    source: str = "synthetic"
    """`synthetic` (generated), `jsonl`, `parquet`, `hf_dataset` (a folder of the
    `datasets` library) or `tfds` (a data set of the catalogue)."""
    name: str | None = None
    """What reports and metrics call it; null: the data set's or the file's name."""
    path: str | list[str] | None = None
    """One file or several, read in order; the folder of an `hf_dataset`; for `tfds`
    the folder of its published files, where they are not to be downloaded."""
    dataset: str | None = None
    """Name in the catalogue, for `source: tfds`."""
    data_dir: str | None = None
    """Where built data sets of the catalogue lie; null: under ~/.cache."""
    split: str | None = None
    """Of an `hf_dataset` or a data set of the catalogue; null: its training split,
    or its only one."""
    fields: FieldMap = field(default_factory=FieldMap)
    """Which parts of a row are the conversation; the catalogue's sets know theirs."""
    where: dict[str, Any] = field(default_factory=dict)
    """Keep only rows whose fields, as text, are so; all must hold. By field: a text
    (equal), a list (one of), or a mapping of `not`, `matches` (a regular expression),
    `min`, `max` (of a number), `min_chars`, `max_chars`. A null is empty text."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The generated problems, for `source: synthetic`."""
    limit: int | None = None
    """Use only the first so many usable rows."""
    weight: float | None = None
    """In a mixture: the source's share of the tokens of a step, relative to the
    others'; null in all of them: every row once an epoch."""


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Where examples come from and how they become rows of tokens."""

    mixture: list[SourceConfig] = field(default_factory=list)
    """Several sources in place of the one above, each with its own keys and name."""
    chat_template: str | None = None
    """In place of the tokenizer's own: a name (`qwen_boxed`, … in docs/data.md) or a
    path that ends in .jinja. Problems are asked with the same one unless
    `evaluation.data` names another; the export carries the one that was trained."""
    thinking: str = "keep"
    """Thoughts in assistant turns, `<think>…</think>`: `keep` or `drop`."""
    max_length: int = 1024
    """Tokens in a row."""
    overlong: str = "truncate"
    """An example longer than a row: `truncate`, `drop`, or `error`."""
    on_bad_row: str = "error"
    """A row that cannot be used: `error` stops, `skip` counts and lists it."""
    packing: bool = True
    """Several examples a row (attention must respect segment ids), or one."""
    cache: bool = True
    """Keep tokens and rows under `cache_dir`, to be read from there the next time.
    Generated problems are not kept."""
    shuffle_seed: int = 0
    """Order in which examples are packed, and of the rows in every epoch."""


def sources(config: DataConfig) -> list[SourceConfig]:
    """The sources of the mixture, or the only one."""
    return list(config.mixture) or [config]


def source_name(config: SourceConfig) -> str:
    """What reports and metrics call a source."""
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


def validate(config: DataConfig, key: str = "data") -> None:
    """Raises ValueError naming the key under which the config contradicts itself.

    Args:
        config: what to check. Files are not opened here.
        key: where in the whole tree this section stands, for the message.
    """
    refuse = _refuser(key)
    _one_of(refuse, "overlong", config.overlong, OVERLONG)
    _one_of(refuse, "on_bad_row", config.on_bad_row, ON_BAD_ROW)
    _one_of(refuse, "thinking", config.thinking, THINKING)
    if config.max_length < 2:
        refuse("max_length", config.max_length, "at least 2: a token and its label")
    if not 0 <= config.shuffle_seed < 2**32:
        refuse("shuffle_seed", config.shuffle_seed, "0 to 2^32 - 1")
    if not config.mixture:
        if config.weight is not None:
            refuse("weight", config.weight, "null: it belongs to a source of a mixture")
        _validate_source(config, key)
        return
    default = SourceConfig()
    for own in dataclasses.fields(SourceConfig):
        found = getattr(config, own.name)
        if found != getattr(default, own.name):
            refuse(own.name, found, "nothing, since the sources are in data.mixture")
    for i, source in enumerate(config.mixture):
        _validate_source(source, f"{key}.mixture[{i}]")
    _validate_mixture(config.mixture, refuse)


def _validate_mixture(mixture: list[SourceConfig], refuse) -> None:
    names = [source_name(source) for source in mixture]
    for i, name in enumerate(names):
        if name in names[:i]:
            refuse(f"mixture[{i}].name", name, "a name that no other source has")
    weights = [source.weight for source in mixture]
    given = [weight is not None for weight in weights]
    if any(given) and not all(given):
        missing = given.index(False)
        refuse(f"mixture[{missing}].weight", None, "a number, since others have one")
    for i, weight in enumerate(weights):
        if weight is not None and not 0 < weight < float("inf"):
            refuse(f"mixture[{i}].weight", weight, "a number more than 0")


def _validate_source(config: SourceConfig, key: str) -> None:
    refuse = _refuser(key)
    kind = config.source
    _one_of(refuse, "source", kind, SOURCES)
    if config.limit is not None and config.limit < 1:
        refuse("limit", config.limit, "at least 1, or null for all rows")
    for name, kinds in (
        ("dataset", ("tfds",)),
        ("data_dir", ("tfds",)),
        ("split", ("hf_dataset", "tfds")),
    ):
        if getattr(config, name) is not None and kind not in kinds:
            expected = f"null, or {key}.source: {' or '.join(kinds)}"
            refuse(name, getattr(config, name), expected)
    if kind == "synthetic":
        # A path without its source would train on generated problems unnoticed.
        files = f"{key}.source: {', '.join(SOURCES[1:-1])} or {SOURCES[-1]}"
        if config.path:
            refuse("path", config.path, f"null, or {files}")
        if config.where:
            refuse("where", config.where, f"nothing, or {files}")
        _validate_synthetic(config.synthetic, refuse)
        return
    if kind in FILES and not config.path:
        refuse("path", config.path, f"one file or several, since source is {kind}")
    if kind in ("hf_dataset", "tfds") and config.path is not None:
        if not isinstance(config.path, str):
            refuse("path", config.path, f"one folder, since source is {kind}")
    if kind == "hf_dataset" and not config.path:
        refuse("path", config.path, "a folder, since source is hf_dataset")
    if kind == "tfds":
        from targetsft_jax.data.catalogue import CATALOGUE

        known = ", ".join(CATALOGUE)
        if config.dataset not in CATALOGUE:
            refuse("dataset", config.dataset, f"one of {known}")
        splits = CATALOGUE[config.dataset].splits
        if config.split is not None:
            _one_of(refuse, "split", config.split, splits)
        elif "train" not in splits and len(splits) > 1:
            refuse("split", None, "one of " + ", ".join(splits))
    try:
        conditions(config.where)
    except ValueError as error:
        raise ValueError(f"{key}.where.{error}") from None
    _validate_fields(config.fields, refuse)


def _validate_fields(fields: FieldMap, refuse) -> None:
    if fields.prompt is None:
        if fields.response is not None:
            refuse("fields.prompt", None, "a field, since fields.response is set")
        if fields.messages is None:
            refuse("fields.messages", None, "a field, since fields.prompt is not set")
    for name, template in vars(fields).items():
        problem = _template_problem(template or "")
        if problem:
            refuse(f"fields.{name}", template, f"a field or a template: {problem}")


def _refuser(key: str) -> Callable[[str, object, str], None]:
    def refuse(name: str, found: object, expected: str) -> None:
        raise ValueError(f"{key}.{name} is {found!r}; expected {expected}")

    return refuse


def _one_of(refuse, name: str, found: object, choices: tuple[str, ...]) -> None:
    if found not in choices:
        refuse(name, found, "one of " + ", ".join(choices))


def _template_problem(template: str) -> str | None:
    try:
        holes = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{error} (a literal brace is written twice)"
    for _, name, format_spec, conversion in holes:
        if name == "" or format_spec or conversion:
            return "a hole holds the name of a field and nothing else"
    return None


def _validate_synthetic(synthetic: SyntheticConfig, refuse) -> None:
    weights = synthetic.kinds
    for kind, weight in weights.items():
        if kind not in KINDS:
            refuse("synthetic.kinds", kind, "kinds from " + ", ".join(KINDS))
        if not 0 <= weight < float("inf"):
            refuse(f"synthetic.kinds.{kind}", weight, "a weight of 0 or more")
    if sum(weights.values()) <= 0:
        refuse("synthetic.kinds", weights, "at least one kind of positive weight")
    if not 1 <= synthetic.digits <= 9:
        refuse("synthetic.digits", synthetic.digits, "1 to 9")
    if synthetic.examples < 1:
        refuse("synthetic.examples", synthetic.examples, "at least 1")
    if not 0.0 <= synthetic.label_noise <= 1.0:
        refuse("synthetic.label_noise", synthetic.label_noise, "a share, 0 to 1")
    if synthetic.seed < 0:
        refuse("synthetic.seed", synthetic.seed, "0 or more")
    if synthetic.split not in SPLITS:
        refuse("synthetic.split", synthetic.split, "one of " + ", ".join(SPLITS))
