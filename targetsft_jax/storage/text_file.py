"""Read small text files of a user: regular files, of bounded size, in UTF-8."""

import codecs
import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_text(path: Path, *, limit: int) -> str:
    """Text of a file, without its byte order mark; line ends are unchanged.

    Args:
        path: the file; links are followed.
        limit: largest size, in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is not a regular file, has more bytes, or is not UTF-8; names
            the file.
    """
    try:
        # O_NONBLOCK: a pipe without a writer would block until its kind is known.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; expected a file") from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ValueError(f"{path} is a socket; expected a regular file") from None
        raise OSError(f"{path} cannot be read ({error.strerror})") from None
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            found = _KINDS.get(kind, "not a file")
            raise ValueError(f"{path} is {found}; expected a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ValueError(
            f"{path} has {os.stat(path).st_size:,} bytes; expected at most {limit:,}"
        )
    return _decoded(content, path)


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; expected UTF-8; save it in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; "
            "expected a text file; save it in UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path}, line {line}: a NUL character; expected a text file in UTF-8"
        )
    return text
