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
from targetsft_jax.storage import array_folder, atomic
from targetsft_jax.targets.inputs import column_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raised when the same records, tokenizer and settings give other arrays.
VERSION = 2

# Settings that packing alone depends on, and settings that change no array: the text
# of the chat template is hashed, not its name.
_PACKING = ("max_length", "overlong", "packing", "shuffle_seed")
_WITHOUT_EFFECT = ("cache", "chat_template")


class ArrayMaker(Protocol):
    """Arrays that can be cached, and a summary of them."""

    def parts(self) -> Iterable[Arrays]:
        """Parts of the arrays, to be concatenated. Read once."""

    def summary(self) -> Mapping[str, Any]:
        """Facts about the arrays, as JSON has them. Read after the last part."""


@dataclass(frozen=True)
class CacheFolders:
    """Folders of the tokens and of the packed rows of one data section.

    Attributes:
        tokens, rows: None: nothing is cached.
    """

    tokens: Path | None = None
    rows: Path | None = None

    @classmethod
    def of(
        cls,
        config: DataConfig,
        tokenizer: "PreTrainedTokenizerBase",
        content: str,
        cache_dir: str | Path,
        held_out: int = 0,
    ) -> "CacheFolders":
        """The folders of a data section.

        Args:
            config: the data section; every setting counts but the name of the template.
            tokenizer: with the chat template that is trained.
            content: hash of the content of the config's sources.
            cache_dir: the folder of the cache.
            held_out: number of examples held out from training.
        """
        import tokenizers
        import transformers

        settings = dataclasses.asdict(config)
        for name in _WITHOUT_EFFECT:
            settings.pop(name)
        packing = {name: settings.pop(name) for name in _PACKING}
        packing["weights"] = [part.pop("weight") for part in settings["mixture"]]
        packing["held_out"] = held_out
        template = tokenizer.get_chat_template()
        tokens = [
            VERSION,
            transformers.__version__,
            tokenizers.__version__,
            _hash(tokenizer.backend_tokenizer.to_str()),
            {name: str(x) for name, x in tokenizer.special_tokens_map.items()},
            template,
            # A template that reads the clock renders another text tomorrow.
            str(datetime.date.today()) if "strftime_now" in template else None,
            content,
            settings,
            column_names(),
        ]
        key = _hash(json.dumps(tokens, sort_keys=True, default=str))
        rows = _hash(json.dumps([key, packing], sort_keys=True))
        folder = Path(cache_dir).expanduser() / "data"
        return cls(folder / f"tokens-{key[:20]}", folder / f"rows-{rows[:20]}")


def load_or_make(
    folder: Path | None, maker: ArrayMaker, log: Callable[[str], None]
) -> tuple[Arrays, dict[str, Any]]:
    """Arrays from a folder of the cache; made and written if it has no complete ones.

    Args:
        folder: of the cache; None: the arrays are made in memory.
        maker: makes the arrays. If it raises, nothing is written.
        log: receives a line on the origin of the arrays.

    Returns:
        The arrays (memory-mapped if cached) and their summary.

    Raises:
        ValueError: the folder cannot be written.
    """
    if folder is None:
        return join_parts(maker.parts()), dict(maker.summary())
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
    written = array_folder.read(folder)
    assert written is not None
    log(f"written to the cache: {folder}")
    return written


def _write(folder: Path, maker: ArrayMaker) -> None:
    parts = iter(maker.parts())
    # Before the folder is opened: an unreadable source is not an error of the folder.
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
