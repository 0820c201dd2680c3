"""Text files whose first line proves that they are unchanged."""

import pytest

from targetsft_jax.storage import signed_text

TEXT = "seed: 1\nname: γ\n"


def test_the_text_is_read_as_it_was_written(tmp_path):
    for text in (TEXT, "", "no line feed at the end", "\n\n", "a\r\nb"):
        signed_text.write(tmp_path / "file", text)
        assert signed_text.read(tmp_path / "file") == text


@pytest.mark.parametrize("byte", range(0, 90, 7))
def test_any_changed_byte_is_noticed(tmp_path, byte):
    path = tmp_path / "file"
    signed_text.write(path, TEXT)
    content = bytearray(path.read_bytes())
    content[byte % len(content)] ^= 1
    path.write_bytes(content)
    assert signed_text.read(path) is None


def test_other_files_are_not_signed(tmp_path):
    assert signed_text.read(tmp_path / "missing") is None
    assert signed_text.read(tmp_path) is None
    path = tmp_path / "file"
    for content in (b"", b"\xff\xfe", TEXT.encode(), b"# targetsft-jax 12: x\n"):
        path.write_bytes(content)
        assert signed_text.read(path) is None
