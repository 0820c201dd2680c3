"""Small text files of users: kinds of files, sizes, encodings."""

import os
import socket

import pytest

from targetsft_jax.storage.text_file import read_text


def test_a_byte_order_mark_is_dropped_and_line_ends_stay(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa9\r\n")
    assert read_text(path, limit=20) == "a: é\r\n"


@pytest.mark.parametrize(
    "content, message",
    [
        ("a: 1".encode("utf-16"), "is UTF-16; expected UTF-8"),
        (b"a: 1\nb: \xff", "line 2: byte 0xff is not UTF-8"),
        (b"a: 1\n\0", "line 2: a NUL character"),
        (b"x" * 21, "has 21 bytes; expected at most 20"),
    ],
)
def test_other_encodings_and_sizes_are_refused(content, message, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read_text(path, limit=20)


def test_other_kinds_of_files_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("pipe", "pipe"), ("folder", "folder"), ("device", "device")):
        with pytest.raises(ValueError, match=f"{name} is a {kind}; expected a regular"):
            read_text(tmp_path / name, limit=20)
    with pytest.raises(OSError, match="loop cannot be read"):
        read_text(tmp_path / "loop", limit=20)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        read_text(tmp_path / "absent", limit=20)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # addresses are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(ValueError, match="is a socket"):
            read_text(tmp_path / "socket", limit=20)


def test_a_file_without_permission_is_one_sentence(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OSError, match="a.txt cannot be read .Permission denied."):
        read_text(tmp_path / "a.txt", limit=20)
