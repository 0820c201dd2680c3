"""Copies of objects: equal or refused, made once, made again when an object changed."""

import pytest

from targetsft_jax.storage import local_copy, object_store, remote_cache
from targetsft_jax.storage.location import location
from targetsft_jax.storage.mirror import Mirror, mirrored


@pytest.fixture
def fetched(monkeypatch):
    """URLs of the objects that are downloaded."""
    urls = []
    fetch = object_store.fetch

    def counted(url, *args):
        urls.append(url.rpartition("/")[2])
        fetch(url, *args)

    monkeypatch.setattr(object_store, "fetch", counted)
    return urls


def _write(store, files):
    for name, text in files.items():
        object_store.write_text(f"{store}/{name}", text)


def test_a_copy_is_made_once_and_follows_its_objects(store, fetched):
    _write(store, {"m/a.json": "1", "m/b.safetensors": "22", "m/c/d": "3", "m/": ""})
    folder = local_copy.copy_folder(f"{store}/m")
    assert (folder / "c" / "d").read_text() == "3" and sorted(fetched) == [
        "a.json",
        "b.safetensors",
        "d",
    ]
    fetched.clear()
    assert local_copy.copy_folder(f"{store}/m") == folder and fetched == []

    _write(store, {"m/a.json": "4"})  # Of the same size.
    object_store.remove(f"{store}/m", ["b.safetensors"])
    (folder / "c" / "d").write_text("truncated")
    local_copy.copy_folder(f"{store}/m")
    assert sorted(fetched) == ["a.json", "d"]
    assert (folder / "a.json").read_text() == "4"
    assert not (folder / "b.safetensors").exists()

    fetched.clear()
    local_copy.copy_folder(f"{store}/m", accept=lambda name: name == "a.json", depth=1)
    assert fetched == [] and (folder / "c" / "d").exists()
    with pytest.raises(FileNotFoundError, match="student.path is gs://.*/absent"):
        local_copy.copy_folder(f"{store}/absent", "student.path")


def test_a_copy_that_differs_from_its_object_is_refused(store, tmp_path):
    _write(store, {"x": "content"})
    stored = object_store.stored_object(f"{store}/x")
    wrong = object_store.StoredObject(stored.size, "AAAAAA==", stored.generation)
    with pytest.raises(OSError, match="differs in size or CRC32C"):
        object_store.fetch(f"{store}/x", tmp_path / "x", wrong)
    assert not (tmp_path / "x").exists() and list(tmp_path.glob(".x*")) == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//x", "./x"])
def test_a_name_that_leaves_its_folder_is_refused(name, monkeypatch):
    class Store:
        def find(self, root, **_):
            return {root + name: {"size": 1}}

    monkeypatch.setattr(object_store, "_store", lambda url: Store())
    with pytest.raises(ValueError, match="gs://bucket/m/.*not the name of a file"):
        object_store.list_objects("gs://bucket/m")


def test_a_cache_is_read_through_and_written_through(store, tmp_path, monkeypatch):
    folder = remote_cache.cache_folder(f"{store}/cache") / "data" / "tokens-1"
    assert not remote_cache.read_through(folder)
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("x")
    remote_cache.write_through(folder)

    monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / "other machine"))
    elsewhere = remote_cache.cache_folder(f"{store}/cache") / "data" / "tokens-1"
    assert elsewhere != folder and remote_cache.read_through(elsewhere)
    assert (elsewhere / "sub" / "x").read_text() == "x"
    assert not remote_cache.read_through(elsewhere)
    # Without the object that is written last, an entry is not complete.
    object_store.remove(f"{store}/cache/data", ["tokens-1.complete.json"])
    monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / "third machine"))
    third = remote_cache.cache_folder(f"{store}/cache") / "data" / "tokens-1"
    assert not remote_cache.read_through(third)


def test_the_files_of_a_run_follow_it_to_another_machine(
    store, tmp_path, monkeypatch, fetched
):
    run_dir = mirrored(f"{store}/run")
    assert str(run_dir.checkpoints) == f"{store}/run/checkpoints"
    run_dir.export.mkdir(parents=True)
    (run_dir.export / "old.safetensors").write_text("old")
    run_dir.metrics.write_text("1\n")
    run_dir.lock.write_text("held")
    mirror = Mirror(run_dir)
    mirror.upload()
    with run_dir.metrics.open("a") as file:
        file.write("2\n")
    (run_dir.export / "old.safetensors").rename(run_dir.export / "new.safetensors")
    mirror.upload()
    names = set(object_store.list_objects(f"{store}/run"))
    assert names == {"metrics.jsonl", "hf/new.safetensors"}

    monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / "other machine"))
    other = mirrored(f"{store}/run")
    Mirror(other).download()
    assert other.metrics.read_text() == "1\n2\n" and fetched == ["metrics.jsonl"]
    assert other.path != run_dir.path


def test_a_folder_of_objects_is_moved_to_a_free_name(store):
    _write(store, {"steps/1/x": "1", "aside/1/x": "0"})
    target = object_store.set_aside(
        location(f"{store}/steps/1"), location(f"{store}/aside")
    )
    assert str(target) == f"{store}/aside/1-2"
    assert set(object_store.list_objects(store)) == {"aside/1/x", "aside/1-2/x"}
