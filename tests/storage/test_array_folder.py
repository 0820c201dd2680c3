"""Array folders: round trip, memory mapping, and detection of damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from targetsft_jax.storage.array_folder import Damaged, read, writing

PARTS = [
    {"numbers": np.arange(3, dtype=np.int32), "empty": np.zeros(0, np.float32)},
    {"numbers": np.arange(3, 7, dtype=np.int32), "late": np.ones(2, bool)},
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "kept"
    with writing(folder) as writer:
        for part in PARTS:
            writer.append(part)
        writer.close({"rows": 7, "text": "π"})
    return folder


def test_parts_are_concatenated_and_mapped(folder):
    arrays, about = read(folder)
    assert about == {"rows": 7, "text": "π"}
    assert arrays.keys() == {"numbers", "empty", "late"}
    np.testing.assert_array_equal(arrays["numbers"], np.arange(7))
    assert isinstance(arrays["numbers"], np.memmap)
    assert arrays["numbers"].dtype == np.int32
    assert arrays["empty"].shape == (0,) and arrays["late"].tolist() == [True, True]
    # The files are plain .npy files.
    np.testing.assert_array_equal(np.load(folder / "numbers.npy"), np.arange(7))


def test_the_manifest_holds_text_that_utf8_lacks(tmp_path):
    with writing(tmp_path / "new") as writer:
        writer.append({"numbers": np.arange(3)})
        writer.close({"name": "\udcff.jsonl"})
    assert read(tmp_path / "new")[1] == {"name": "\udcff.jsonl"}


def test_a_missing_folder_is_none(tmp_path):
    assert read(tmp_path / "none") is None


def test_every_flipped_byte_is_detected(folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(Damaged, match=path.name):
                read(folder)
        path.write_bytes(content)
    assert read(folder) is not None


def test_missing_and_truncated_files_are_named(folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(Damaged, match=path.name):
            read(folder)
        path.unlink()
        with pytest.raises(Damaged, match=path.name):
            read(folder)
        path.write_bytes(content)


def test_the_manifest_is_json_after_its_digest(folder):
    digest, _, text = (folder / "manifest.json").read_text().partition("\n")
    assert len(digest) == 64
    assert json.loads(text)["files"]["late.npy"][0] == 130


def test_no_folder_appears_after_a_failure_or_before_the_end(tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises(ZeroDivisionError), writing(folder) as writer:
        writer.append(PARTS[0])
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with writing(folder) as writer:
        writer.append(PARTS[0])
        writer.close({})
        assert read(folder) is None
    assert read(folder) is not None


def test_a_failure_closes_the_files(tmp_path, monkeypatch):
    files, open_file = [], Path.open

    def spy(*args, **kwargs):
        files.append(open_file(*args, **kwargs))
        return files[-1]

    monkeypatch.setattr(Path, "open", spy)
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "failed") as writer:
        writer.append(PARTS[0])
        raise ZeroDivisionError
    arrays = [file.closed for file in files if str(file.name).endswith(".npy")]
    assert arrays == [True] * len(PARTS[0])


def test_the_first_of_two_writers_wins(tmp_path):
    folder = tmp_path / "kept"
    with writing(folder) as late:
        with writing(folder) as early:
            early.append({"x": np.array([1])})
            early.close({"maker": "early"})
        late.append({"x": np.array([2])})
        late.close({"maker": "late"})
    assert read(folder)[1] == {"maker": "early"}
    assert list(tmp_path.iterdir()) == [folder]
