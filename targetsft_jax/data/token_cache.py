"""Tokens and packed rows, kept in folders named by what they follow from."""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data.config import DataConfig
from targetsft_jax.storage import array_folder, atomic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raised when the same records, tokenizer and settings would give other arrays.
VERSION = 1

# What does not change the tokens of an example; packing reads some of it.
_PACKING = ("max_length", "overlong", "packing", "shuffle_seed")
_NEITHER = ("cache", "chat_template")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Cache:
    """Where the tokens and the rows of one data section lie, or will lie."""

    tokens: Path
    rows: Path

    @classmethod
    def of(
        cls,
        config: DataConfig,
        tokenizer: "PreTrainedTokenizerBase",
        identity: str,
        cache_dir: str | Path,
        held_out: int = 0,
    ) -> "Cache":
        """The folders of a data section.

        Args:
            config: every setting in it counts, but for where the template is from.
            tokenizer: as it is used, with the chat template that is trained.
            identity: of the content that the config's sources have now.
            cache_dir: that all are in.
            held_out: examples that are not among the rows.
        """
        import tokenizers
        import transformers

        settings = dataclasses.asdict(config)
        for name in _NEITHER:
            settings.pop(name)
        packing = {name: settings.pop(name) for name in _PACKING}
        packing["weights"] = [own.pop("weight") for own in settings["mixture"]]
        packing["held_out"] = held_out
        template = tokenizer.get_chat_template()
        tokens = [
            VERSION,
            transformers.__version__,
            tokenizers.__version__,
            _hash(tokenizer.backend_tokenizer.to_str()),
            {name: str(x) for name, x in tokenizer.special_tokens_map.items()},
            template,
            # A template that reads the clock renders otherwise tomorrow.
            str(datetime.date.today()) if "strftime_now" in template else None,
            identity,
            settings,
        ]
        key = _hash(json.dumps(tokens, sort_keys=True, default=str))
        rows = _hash(json.dumps([key, packing], sort_keys=True))
        folder = Path(cache_dir).expanduser() / "data"
        return cls(folder / f"tokens-{key[:20]}", folder / f"rows-{rows[:20]}")


def kept(
    folder: Path,
    make: Callable[[], tuple[Iterable[Arrays], Callable[[], Mapping[str, Any]]]],
    say: Callable[[str], None],
) -> tuple[Arrays, dict[str, Any]]:
    """Arrays from a folder of the cache; they are made where it has no whole ones.

    Args:
        folder: of the cache.
        make: gives parts of the arrays, to be put end to end, and what is to be known
            about them once the last part is taken. May raise; nothing is kept then.
        say: is told where they came from.

    Returns:
        The arrays, memory-mapped, and what is known about them.

    Raises:
        ValueError: the folder cannot be written.
    """
    try:
        found = array_folder.read(folder)
    except array_folder.Damaged as error:
        say(f"damaged, made again: {error}")
        atomic.discard(folder)
        found = None
    if found is not None:
        say(f"from the cache: {folder}")
        return found
    parts, about = make()
    try:
        with array_folder.writing(folder) as writer:
            for part in parts:
                writer.append(part)
            writer.close(about())
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error}); name another cache_dir, or set"
            " data.cache to false"
        ) from error
    found = array_folder.read(folder)
    assert found is not None
    say(f"made, and kept in {folder}")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
