"""Files of an export, and the check that an existing folder may be replaced."""

import hashlib
import re
from pathlib import Path

from targetsft_jax.hf.tensor_files import INDEX_FILE, SINGLE_FILE

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
"""Folder of a tokenizer's additional chat templates."""

CARD_FILE = "README.md"

# Files that exports write. Any other file belongs to the user, and its folder is not
# replaced.
_OUR_FILES = {
    "config.json",
    "generation_config.json",
    SINGLE_FILE,
    INDEX_FILE,
    *TOKENIZER_FILES,
}
_OUR_SHARDS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def check_export(folder: Path) -> None:
    """Check that a folder is absent, empty, or an export without other files.

    Raises:
        FileExistsError: anything else; names the files.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; pass a folder to export into.")
    paths = sorted(folder.iterdir())
    if not paths:
        return
    foreign = [p.name + "/" * p.is_dir() for p in paths if not _is_export_file(p)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise FileExistsError(
            f"{folder} exists and would be deleted, but contains files that exports do "
            f"not write: {', '.join(foreign[:5])}{more}. Move them, or pass another "
            "folder."
        )
    if not (folder / "config.json").is_file():
        raise FileExistsError(
            f"{folder} exists and would be deleted, but is not a model export (it has "
            "no config.json). Pass another folder, or remove it."
        )


def signed(card: str) -> str:
    """Append a digest to a model card, which identifies an unedited card."""
    text = card.rstrip() + "\n"
    return f"{text}\n<!-- targetsft_jax {_digest(text)} -->\n"


def _is_export_file(path: Path) -> bool:
    if path.is_dir():
        return path.name == TOKENIZER_FOLDER
    if path.name == CARD_FILE:
        text, mark, _ = path.read_text("utf-8", "replace").rpartition("\n<!-- ")
        return bool(mark) and path.read_text("utf-8", "replace") == signed(text)
    return path.name in _OUR_FILES or _OUR_SHARDS.fullmatch(path.name) is not None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
