"""Local path or URL: which of both, and the refusals of other stores."""

from pathlib import Path

import pytest

from targetsft_jax.storage import location as module
from targetsft_jax.storage.location import (
    absolute,
    commits_by_file,
    is_remote,
    is_url,
    local_folder,
    location,
    url_refusal,
)
from targetsft_jax.storage.user_path import user_path


@pytest.mark.parametrize(
    "text, message",
    [
        ("s3://b/c/d", "mount-s3 b /mnt/b`, and pass /mnt/b/c/d"),
        ("az://b/c", "blobfuse2 mount /mnt/b --container-name b`, and pass /mnt/b/c"),
        ("hf://Qwen/Qwen3-0.6B", "a hub id without a scheme for a model, Qwen/Qwen3"),
        ("https://host/x", "copy the files to a local folder"),
        ("gs:/bucket/x", "expected two slashes: gs://bucket/x"),
        ("gs://bucket", "with the path of a folder or file"),
        ("gs://bucket/", "with the path of a folder or file"),
        ("gs://bucket/a//b", "with the path of a folder or file"),
        ("gs://bucket/a/../b", "with the path of a folder or file"),
        ("gs://Bucket/x", "with the name of a bucket"),
        ("gs:///x", "with the name of a bucket"),
    ],
)
def test_a_url_that_cannot_be_used(text, message):
    assert is_url(text)
    assert message in (url_refusal("run_dir", text) or "")
    with pytest.raises(ValueError):
        location(text)


@pytest.mark.parametrize("text", ["runs/a", "/a/b", "~/x", "a:b", "C:/x", "a b: c/d"])
def test_a_local_path_is_no_url(text):
    assert not is_url(text) and url_refusal("run_dir", text) is None
    assert location(text) == user_path(text)
    assert not is_remote(location(text))


def test_a_url_never_passes_through_pathlib():
    url = "gs://bucket/run"
    assert url_refusal("run_dir", url) is None and url_refusal("x", f"{url}/") is None
    with pytest.raises(ValueError, match="is a URL; expected a local path"):
        user_path(url)
    # What pathlib makes of it is recognised, too.
    assert str(Path(url)) == "gs:/bucket/run" and is_url(Path(url))


def test_a_url_stays_as_it_is(store):
    path = location(f"{store}/run/")
    assert str(path) == str(absolute(path)) == f"{store}/run"
    assert is_remote(path) and commits_by_file(path)
    assert local_folder("runs", f"{store}/run").parts[-3:] == (
        "bucket",
        store.rpartition("/")[2],
        "run",
    )


def test_a_mounted_bucket_is_known_by_its_file_system(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/root / ext4 rw 0 0\n"
        f"bucket {tmp_path}/my\\040bucket fuse.gcsfuse rw 0 0\n"
        f"tmpfs {tmp_path}/my\\040bucket/local tmpfs rw 0 0\n"
    )
    monkeypatch.setattr(module, "_MOUNTS_FILE", str(mounts))
    assert commits_by_file(tmp_path / "my bucket" / "run")
    assert not commits_by_file(tmp_path / "my bucket" / "local" / "run")
    assert not commits_by_file(tmp_path / "my")
