"""Signed manifests: what counts as unchanged, and which folders may be replaced."""

import json

import pytest

from targetsft_jax.storage import atomic, manifest


@pytest.fixture
def folder(tmp_path):
    """A folder with three files and its manifest."""
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "b", "inner/c"):
        (folder / name).write_text(f"content of {name}")
    manifest.write(folder)
    return folder


def _edit_manifest(folder):
    path = folder / manifest.FILE
    tree = json.loads(path.read_text())
    tree["files"]["mine"] = tree["files"]["a"]
    path.write_text(json.dumps(tree))
    (folder / "mine").write_text("content of a")


CHANGES = {
    "another byte": (lambda f: (f / "a").write_text("content of A"), "a was changed"),
    "more bytes": (lambda f: (f / "a").write_text("more"), "a was changed"),
    "a file": (lambda f: (f / "x").touch(), "x is not in its manifest"),
    "an inner file": (lambda f: (f / "inner/x").touch(), "inner/x is not in its"),
    "an empty folder": (lambda f: (f / "x").mkdir(), "x/ is not in its manifest"),
    "a hidden file": (lambda f: (f / ".x").touch(), ".x is not in its manifest"),
    "a link": (lambda f: (f / "x").symlink_to("a"), "x is not in its manifest"),
    "a broken link": (lambda f: (f / "x").symlink_to("y"), "x is not in its manifest"),
    "a link for a file": (
        lambda f: [(f / "b").unlink(), (f / "b").symlink_to("a")],
        "b was changed",
    ),
    "a folder for a file": (
        lambda f: [(f / "b").unlink(), (f / "b").mkdir()],
        "b/ is not in its manifest",
    ),
    "no manifest": (lambda f: (f / manifest.FILE).unlink(), "is missing or damaged"),
    "a manifest of a user": (_edit_manifest, "is missing or damaged"),
    "a truncated manifest": (
        lambda f: (f / manifest.FILE).write_text("{"),
        "is missing or damaged",
    ),
    "a manifest that is a list": (
        lambda f: (f / manifest.FILE).write_text("[1]"),
        "is missing or damaged",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_folder_is_not_replaced(folder, name):
    change, expected = CHANGES[name]
    assert manifest.differences(folder) == []
    manifest.check_replaceable(folder)
    change(folder)
    assert any(expected in line for line in manifest.differences(folder))
    with pytest.raises(FileExistsError, match=f"{folder} exists.*{expected}.*Move it"):
        manifest.check_replaceable(folder)


def test_nothing_is_lost_with_missing_files(folder):
    (folder / "a").unlink()
    assert manifest.differences(folder) == ["a is missing"]
    manifest.check_replaceable(folder)


def test_many_differences_are_counted(folder):
    for number in range(8):
        (folder / f"x{number}").touch()
    with pytest.raises(FileExistsError, match=r"x4 is not in its manifest and 3 more"):
        manifest.check_replaceable(folder)


def test_absent_empty_and_other_targets(tmp_path):
    manifest.check_replaceable(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    manifest.check_replaceable(tmp_path / "empty")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match="is not a folder"):
            manifest.check_replaceable(tmp_path / name)


def test_texts_are_replaced_and_the_folder_is_intact_at_every_moment(
    folder, monkeypatch
):
    """Also if the writer is killed after any of its writes."""
    write, seen = atomic.write_text, []

    def observed(path, text):
        write(path, text)
        seen.append(manifest.differences(folder))

    monkeypatch.setattr(atomic, "write_text", observed)
    manifest.replace_texts(folder, {"a": "new", "deeper/d": "added"})
    assert seen == [[]] * 4
    assert (folder / "a").read_text() == "new"
    assert (folder / "deeper/d").read_text() == "added"
    manifest.check_replaceable(folder)
    (folder / "a").write_text("content of a")
    assert manifest.differences(folder) == ["a was changed"]


def test_a_replacement_signs_no_other_change(folder):
    (folder / "b").write_text("changed")
    (folder / "x").touch()
    manifest.replace_texts(folder, {"a": "new"})
    assert manifest.differences(folder) == [
        "x is not in its manifest",
        "b was changed",
    ]
    (folder / manifest.FILE).unlink()
    with pytest.raises(ValueError, match="expected a folder that this package wrote"):
        manifest.replace_texts(folder, {"a": "newer"})
    assert (folder / "a").read_text() == "new"


def test_a_killed_writers_temporary_file_is_no_change(folder):
    (folder / ".a.partial-0123abcd-17-99-89abcdef").touch()
    assert manifest.differences(folder) == []
    (folder / ".a.partial-mine").touch()
    assert manifest.differences(folder) == [".a.partial-mine is not in its manifest"]
