"""JSON Lines logs: damaged lines, and full disks."""

import errno
import json

import pytest

from targetsft_jax.storage import jsonl

ROWS = [{"step": n, "text": f"π {n}", "loss": n / 2} for n in range(1, 6)]


def _write(path, rows=ROWS):
    with jsonl.Writer(path) as writer:
        for row in rows:
            writer.append(row)
    return path


def test_rows_come_back_in_order(tmp_path):
    path = _write(tmp_path / "rows.jsonl")
    assert jsonl.read(path) == ROWS
    assert jsonl.read(_write(path, ROWS[:1])) == [*ROWS, ROWS[0]]
    assert [json.loads(line) for line in path.read_text().splitlines()][:5] == ROWS


def test_no_file_has_no_rows(tmp_path):
    assert jsonl.read(tmp_path / "none.jsonl") == []
    assert jsonl.truncate_after(tmp_path / "none.jsonl", 3) == []


def test_every_flipped_bit_costs_at_most_its_line(tmp_path):
    """A flipped line feed joins two lines, so it may cost both."""
    path = _write(tmp_path / "rows.jsonl")
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            rows = jsonl.read(path)
            line = content[:place].count(b"\n")
            hit = {line, line + 1} if content[place : place + 1] == b"\n" else {line}
            others = [row for number, row in enumerate(ROWS) if number not in hit]
            assert [row for row in rows if row in others] == others, (place, bit)


@pytest.mark.parametrize(
    "line",
    [b"", b"[1, 2]", b"3", b"null", b"\xff\xfe", b'{"step": 9', b"[" * 100_000],
)
def test_a_line_that_is_not_an_object_is_skipped(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}]


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    rows = [{"text": "a\u2028b\u0085c\rd\ne"}]
    assert jsonl.read(_write(tmp_path / "rows.jsonl", rows)) == rows


def test_non_finite_floats_become_null(tmp_path):
    row = {"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": -float("inf")}}
    path = _write(tmp_path / "rows.jsonl", [row, {"text": "\ud800"}])
    assert jsonl.read(path) == [
        {"a": None, "b": [None, 1.0], "c": {"d": None}},
        {"text": "\ud800"},
    ]


def test_a_truncated_last_line_does_not_spoil_the_next_one(tmp_path):
    path = _write(tmp_path / "rows.jsonl")
    path.write_bytes(path.read_bytes()[:-4])
    _write(path, [{"step": 6}])
    assert jsonl.read(path) == [*ROWS[:4], {"step": 6}]


def test_truncate_after_keeps_the_bytes_of_earlier_rows(tmp_path):
    path = _write(tmp_path / "rows.jsonl")
    first = b'{"step":0,  "loss":1e-3}\n'
    path.write_bytes(first + path.read_bytes() + b'{"loss": 1}\n\xff\n{"step": 7')
    before = path.read_bytes()
    assert jsonl.truncate_after(path, 2) == ROWS[2:]
    assert path.read_bytes() == first + before[len(first) :].split(b'{"step": 3')[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_file_without_later_rows_is_not_written(tmp_path):
    path = _write(tmp_path / "rows.jsonl")
    number = path.stat().st_ino
    assert jsonl.truncate_after(path, 5) == []
    assert path.stat().st_ino == number


class _SmallDisk:
    """A file on a disk that is full after a number of bytes."""

    def __init__(self, file, space):
        self.file, self.space = file, space

    def write(self, content):
        if not self.space:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.space])
        self.space -= written
        return written

    def close(self):
        self.file.close()


@pytest.mark.parametrize("size", [10, 20_000])
@pytest.mark.parametrize("space", [0, 1, 25])
def test_a_full_disk_neither_loses_nor_duplicates_rows(tmp_path, size, space):
    """Rows of any size, also larger than the buffer of a Python file."""
    path = tmp_path / "rows.jsonl"
    rows = [{"step": n, "text": "x" * size} for n in range(3)]
    writer = jsonl.Writer(path)
    disk = writer._file = _SmallDisk(writer._file, space)
    for row in rows[:2]:
        with pytest.raises(OSError, match="No space"):
            writer.append(row)
    disk.space = 10**9
    writer.append(rows[2])
    writer.close()
    assert jsonl.read(path) == rows


def test_close_reports_rows_that_it_cannot_write(tmp_path):
    writer = jsonl.Writer(tmp_path / "rows.jsonl")
    writer._file = _SmallDisk(writer._file, 0)
    for act in (lambda: writer.append({"step": 1}), writer.close):
        with pytest.raises(OSError, match="No space"):
            act()
