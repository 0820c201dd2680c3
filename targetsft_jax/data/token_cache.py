"""Cache of tokens and packed rows, in folders named by the hash of their inputs."""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.examples import Arrays, join_parts
from targetsft_jax.data.shapes import SHAPES
from targetsft_jax.data.teacher_rows import TeacherPrompt
from targetsft_jax.data.token_limit import stored_tokens
from targetsft_jax.parallel import processes
from targetsft_jax.storage import array_folder, atomic
from targetsft_jax.storage.remote_cache import (
    cache_folder,
    read_through,
    write_through,
)
from targetsft_jax.targets.inputs import column_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Incremented when equal records, tokenizer and settings result in other arrays.
VERSION = 4

# Settings that affect packing alone, and settings that affect no array: the text of the
# chat template is hashed, not its name.
_PACKING = ("max_length", "overlong", "max_dropped", "packing", "shuffle_seed")
_WITHOUT_EFFECT = ("cache", "chat_template")


class ArrayMaker(Protocol):
    """Maker of arrays that can be cached, and of their summary."""

    def parts(self) -> Iterable[Arrays]:
        """Parts of the arrays, to be concatenated; iterated once."""

    def summary(self) -> Mapping[str, Any]:
        """JSON-serializable facts about the arrays; called after the last part."""


@dataclass(frozen=True)
class CacheFolders:
    """Folders of the tokens and of the packed rows of one data section.

    Attributes:
        tokens, rows: the folders; None: nothing is cached.
        teacher_tokens: of the tokens under a teacher's own prompt.
    """

    tokens: Path | None = None
    rows: Path | None = None
    teacher_tokens: Path | None = None

    @classmethod
    def of(
        cls,
        config: DataConfig,
        tokenizer: "PreTrainedTokenizerBase",
        content: str,
        cache_dir: str | Path,
        held_out: int = 0,
        teacher: TeacherPrompt | None = None,
    ) -> "CacheFolders":
        """Folders of a data section, named by the hash of everything that matters.

        Args:
            config: the data section; every setting counts except the template's name.
            tokenizer: with the chat template of the training.
            content: hash of the content of the config's sources.
            cache_dir: root folder of the cache.
            held_out: number of examples held out from training.
            teacher: prompt of a live teacher that has its own, and its rows.
        """
        import tokenizers
        import transformers

        settings = dataclasses.asdict(config)
        for name in _WITHOUT_EFFECT:
            settings.pop(name)
        packing = {name: settings.pop(name) for name in _PACKING}
        packing["weights"] = [part.pop("weight") for part in settings["mixture"]]
        packing["held_out"] = held_out
        # A base model has none, and needs none for texts without roles.
        has_template = bool(tokenizer.chat_template)
        template = tokenizer.get_chat_template() if has_template else ""
        tokens = [
            VERSION,
            transformers.__version__,
            tokenizers.__version__,
            _hash(tokenizer.backend_tokenizer.to_str()),
            {name: str(x) for name, x in tokenizer.special_tokens_map.items()},
            template,
            # A template that reads the clock renders other text tomorrow.
            str(datetime.date.today()) if "strftime_now" in template else None,
            content,
            settings,
            column_names(),
            {name: dataclasses.asdict(shape) for name, shape in SHAPES.items()},
            stored_tokens(config.max_length),
        ]
        key = _hash(json.dumps(tokens, sort_keys=True, default=str))
        folder = cache_folder(cache_dir) / "data"
        theirs = None
        if teacher is not None:
            packing["teacher"] = dataclasses.astuple(teacher)
            longest = max(config.max_length, teacher.max_length)
            prompted = [key, teacher.template, stored_tokens(longest)]
            theirs = folder / f"tokens-{_hash(json.dumps(prompted))[:20]}"
        rows = _hash(json.dumps([key, packing], sort_keys=True))
        return cls(folder / f"tokens-{key[:20]}", folder / f"rows-{rows[:20]}", theirs)


def load_or_make(
    folder: Path | None, maker: ArrayMaker, log: Callable[[str], None]
) -> tuple[Arrays, dict[str, Any]]:
    """Read arrays from a cache folder, or make and write them if it is incomplete.

    Args:
        folder: the cache folder; None: the arrays are made in memory.
        maker: maker of the arrays. If it raises, nothing is written.
        log: called with a line on the origin of the arrays.

    Returns:
        The arrays (memory-mapped if cached) and their summary.

    Raises:
        ValueError: the folder cannot be written.
    """
    if folder is None:
        return join_parts(maker.parts()), dict(maker.summary())
    read_through(folder)
    try:
        cached = array_folder.read(folder)
    except array_folder.Damaged as error:
        log(f"damaged, rebuilt: {error}")
        atomic.discard(folder)
        cached = None
    if cached is not None:
        log(f"from the cache: {folder}")
        return cached
    _write(folder, maker)
    arrays = array_folder.read(folder)
    assert arrays is not None
    if processes.is_primary():
        write_through(folder)
    log(f"written to the cache: {folder}")
    return arrays


def _write(folder: Path, maker: ArrayMaker) -> None:
    parts = iter(maker.parts())
    # Read before the folder is opened, so that an unreadable source is not reported as
    # an error of the folder.
    first = next(parts)
    try:
        with array_folder.writing(folder) as writer:
            writer.append(first)
            for part in parts:
                writer.append(part)
            writer.close(maker.summary())
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error}); choose another cache_dir, or set"
            " data.cache to false"
        ) from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
