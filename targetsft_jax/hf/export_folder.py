"""The files of a model export, and which existing folder an export may replace."""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from targetsft_jax.hf.tensor_files import INDEX_FILE, SINGLE_FILE
from targetsft_jax.storage import atomic

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
TOKENIZER_FOLDER = "additional_chat_templates"
"""Of a tokenizer with several."""

CARD_FILE = "README.md"

# What an export, its tokenizer included, may consist of: what is not here is somebody
# else's, and an export that would delete it is refused.
_OUR_FILES = {
    "config.json",
    "generation_config.json",
    SINGLE_FILE,
    INDEX_FILE,
    *TOKENIZER_FILES,
}
_OUR_SHARDS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@contextlib.contextmanager
def whole(folder: str | Path) -> Iterator[Path]:
    """A new folder to write an export into, which becomes `folder` at the end."""
    with atomic.folder(folder, check_export) as partial:
        yield partial


def check_export(folder: Path) -> None:
    """FileExistsError where a folder is no model export, or holds other files too."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to export into.")
    inside = sorted(folder.iterdir())
    if not inside:
        return
    foreign = [p.name + "/" * p.is_dir() for p in inside if not _ours(p)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise FileExistsError(
            f"{folder} exists and would be deleted, but holds what no export writes: "
            f"{', '.join(foreign[:5])}{more}. Move them out, or name another folder."
        )
    if not (folder / "config.json").is_file():
        raise FileExistsError(
            f"{folder} exists and would be deleted, but is not a model export (no "
            "config.json). Name another folder, or remove it."
        )


def signed(card: str) -> str:
    """A model card that a later export knows as ours, as long as nobody edits it."""
    text = card.rstrip() + "\n"
    return f"{text}\n<!-- targetsft_jax {_digest(text)} -->\n"


def _ours(path):
    if path.is_dir():
        return path.name == TOKENIZER_FOLDER
    if path.name == CARD_FILE:
        text, mark, _ = path.read_text("utf-8", "replace").rpartition("\n<!-- ")
        return bool(mark) and path.read_text("utf-8", "replace") == signed(text)
    return path.name in _OUR_FILES or _OUR_SHARDS.fullmatch(path.name) is not None


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]
