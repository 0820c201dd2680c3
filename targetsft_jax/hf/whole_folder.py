"""A folder of an export that appears whole, or not at all."""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
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

# renameat2 of Linux: two names change places at one instant.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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


@contextlib.contextmanager
def whole(
    folder: str | Path, check: Callable[[Path], None] = check_export
) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` at the end of the block.

    Args:
        folder: the target.
        check: raises where the target holds what may not be replaced.
    """
    target = Path(folder).resolve()
    partial = begin(target, check)
    try:
        yield partial
        finish(target)
    except BaseException:
        abandon(target)
        raise


def begin(folder: Path, check: Callable[[Path], None] = check_export) -> Path:
    """An empty sibling to write into, where the folder may be written at all.

    What an interrupted export left beside it is cleared away first.
    """
    partial, old = _siblings(folder)
    if old.exists() and not folder.exists():
        # A kill between the two renames of `finish`, where names cannot be exchanged.
        os.rename(old, folder)
    check(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish(folder: Path) -> None:
    """Give the folder's name to what was written beside it, at one instant.

    Where the system cannot exchange two names, an existing folder is renamed first; a
    kill between the two leaves it as `.NAME.old`, and `begin` puts it back.
    """
    partial, old = _siblings(folder)
    for path in (*partial.rglob("*"), partial):
        _to_disk(path)
    shutil.rmtree(old, ignore_errors=True)
    if not folder.exists() or not any(folder.iterdir()):
        os.rename(partial, folder)
    elif _exchange(partial, folder):
        os.rename(partial, old)
    else:
        os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except OSError:
            os.rename(old, folder)
            raise
    _to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def abandon(folder: Path) -> None:
    """Remove what was written so far."""
    shutil.rmtree(_siblings(folder)[0], ignore_errors=True)


def signed(card: str) -> str:
    """A model card that a later export knows as ours, as long as nobody edits it."""
    text = card.rstrip() + "\n"
    return f"{text}\n<!-- targetsft_jax {_digest(text)} -->\n"


def _siblings(folder):
    return tuple(
        folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old")
    )


def _exchange(one, other):
    """Whether the two names have changed places; not every file system can."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return not rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)


def _to_disk(path):
    """Wait until it is on the disk, so that no name appears before what it names."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _ours(path):
    if path.is_dir():
        return path.name == TOKENIZER_FOLDER
    if path.name == CARD_FILE:
        text, mark, _ = path.read_text("utf-8", "replace").rpartition("\n<!-- ")
        return bool(mark) and path.read_text("utf-8", "replace") == signed(text)
    return path.name in _OUR_FILES or _OUR_SHARDS.fullmatch(path.name) is not None


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]
