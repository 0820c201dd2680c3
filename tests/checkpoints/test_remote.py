"""The whole way through a store: train, kill, resume elsewhere, export, load back."""

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import launched, rig

from targetsft_jax import convert, train
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.checkpoints.remote import local_model, local_run
from targetsft_jax.storage import object_store
from targetsft_jax.storage.location import local_dir

STEPS = 8


def _arguments(folders, run_dir, **more):
    return rig.small_run(
        folders, run_dir, train__steps=STEPS, train__save_every=4, **more
    )


def _at(store, folders):
    """Student and cache in the store, too."""
    object_store.publish_folder(folders["student"], f"{store}/student")
    places = {"student__path": f"{store}/student", "cache_dir": f"{store}/cache"}
    return _arguments(folders, f"{store}/run", **places)


@pytest.mark.slow
def test_a_killed_run_is_resumed_elsewhere_exported_and_loaded(
    folders, store, tmp_path, monkeypatch
):
    arguments = _at(store, folders)
    # Without a store and a kill, at the same time.
    undisturbed = _arguments(folders, tmp_path / "alone")
    beside = launched.start(undisturbed, tmp_path / "third", devices=1)
    job = launched.start(arguments, tmp_path / "first", devices=1)
    deadline = time.monotonic() + 120
    committed = f"{store}/run/checkpoints/4/commit_success.txt"
    while object_store.stored_object(committed) is None:
        assert time.monotonic() < deadline and job.processes[0].poll() is None, (
            job.said()
        )
        time.sleep(0.05)
    job.processes[0].send_signal(signal.SIGKILL)
    job.wait(60)
    assert job.printed[0].read_text().count("\nstep ") < STEPS

    # A machine without the local files of the first.
    shutil.rmtree(local_dir())
    monkeypatch.setenv("TARGETSFT_LOCAL_DIR", str(tmp_path / "second machine"))
    job = launched.start(arguments, tmp_path / "second", devices=1)
    assert job.wait(120) == [0], job.said()
    assert "resumed from the checkpoint of step" in job.said()
    assert f"written to {store}/run" in job.said()

    assert beside.wait(120) == [0], beside.said()
    alone = load_file(tmp_path / "alone/hf/model.safetensors")
    _assert_equal(local_model(f"{store}/run/hf"), alone)
    rows = rig.metrics_of(local_run(f"{store}/run").path)
    reference = rig.metrics_of(tmp_path / "alone")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in reference]

    # The newest checkpoint, and an earlier one, as exports in the store.
    for source, out in (("run", "new"), ("run/checkpoints/4", "old")):
        paths = [f"{store}/{source}", f"{store}/{out}"]
        assert convert.main(["to-hf", *paths]) == 0
    _assert_equal(local_model(f"{store}/new"), alone)
    opened = open_model(f"{store}/run")
    assert str(opened.source) == f"{store}/run/checkpoints/{STEPS}"
    kernel = np.asarray(opened.params()["embed"])
    np.testing.assert_array_equal(kernel, alone["model.embed_tokens.weight"])


def _assert_equal(folder: Path, expected):
    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name])


def test_an_export_replaces_no_other_objects(folders, store, tmp_path, capsys):
    hf = folders["student"]
    object_store.publish_folder(hf, f"{store}/foreign")
    object_store.write_text(f"{store}/foreign/notes.txt", "mine")
    assert convert.main(["from-hf", str(hf), str(tmp_path / "run")]) == 0
    run = str(tmp_path / "run")
    assert convert.main(["to-hf", run, f"{store}/foreign"]) == 1
    assert "notes.txt. Move it, or pass another folder" in capsys.readouterr().err
    assert convert.main(["to-hf", run, f"{store}/out"]) == 0
    assert f"to\n  {store}/out" in capsys.readouterr().out
    before = object_store.list_objects(f"{store}/out")
    # Unchanged, it is replaced; a tensor file of another name is removed.
    assert convert.main(["to-hf", run, f"{store}/out", "--max-shard-size", "20kB"]) == 0
    after = object_store.list_objects(f"{store}/out")
    assert "model.safetensors" in before and "model.safetensors" not in after
    opened = open_model(f"{store}/out")
    assert opened.config == open_model(hf).config


def test_a_run_names_the_key_of_a_missing_object(folders, store, capsys):
    def error(**places):
        arguments = _arguments(folders, f"{store}/run")
        for key, value in places.items():
            arguments += [f"--{key.replace('__', '.')}", value]
        assert train.main(arguments) in (1, 2)
        return capsys.readouterr().err

    assert "run_dir is gs://absent/run: there is no bucket absent" in error(
        run_dir="gs://absent/run"
    )
    assert "the model is gs://" in error(student__path=f"{store}/absent")
    assert "no file matches the pattern" in error(data__path=f"{store}/*.jsonl")
    assert "pass /mnt/b/x" in error(checkpoint_dir="s3://b/x")
