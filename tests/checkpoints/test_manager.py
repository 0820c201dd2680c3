"""Saving and restoring plain trees: full disks, damage, other data, old layouts."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.checkpoints import manager
from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.provenance import Provenance
from targetsft_jax.checkpoints.reader import find_checkpoint
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.parallel.preemption import StopSignal
from targetsft_jax.storage import disk_full
from targetsft_jax.storage.run_dir import RunDir

POSITION = Position(0, 3, 8, "data")


def _arrays(step, size=48):
    w = jax.random.normal(jax.random.key(step), (size // 4, 4))
    optimizer = {"step": jnp.int32(step), "moments": ({"m": w + 1}, jnp.int32(step))}
    return {"params": {"layers": {"w": w}}, "optimizer": optimizer}


def _save(checkpoints, step, **sizes):
    position = replace(POSITION, step=step)
    return checkpoints.save(_arrays(step, **sizes), position, {"loss": 1.0})


def _equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def saved(tmp_path):
    """A run directory with the checkpoints of steps 1 and 2."""
    run_dir = RunDir(tmp_path / "run")
    checkpoints = Checkpoints(run_dir, Retention(2))
    for step in (1, 2):
        assert _save(checkpoints, step) == []
    checkpoints.close()
    return run_dir


def test_trees_come_back_on_the_requested_shardings(saved):
    mesh = make_mesh(2, 2, 2)
    sharding = NamedSharding(mesh, P("fsdp"))

    def like(x):
        spec = sharding if x.ndim else NamedSharding(mesh, P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec)

    checkpoints = Checkpoints(saved, Retention(2))
    assert checkpoints.latest == 2
    arrays, step = checkpoints.restore(jax.tree.map(like, _arrays(0)), POSITION)
    checkpoints.close()
    assert step == 2
    _equal(arrays, _arrays(2))
    w = arrays["params"]["layers"]["w"]
    assert w.sharding.is_equivalent_to(sharding, w.ndim)


def _edit_position(run_dir, step, **fields):
    """Change fields of a saved position; None removes one."""
    path = run_dir.checkpoints / f"{step}/position/metadata"
    position = json.loads(path.read_text()) | fields
    kept = {name: value for name, value in position.items() if value is not None}
    path.write_text(json.dumps(kept))


def test_the_layout_on_disk(saved):
    """Items, names and fields of the position are those of earlier versions."""
    folder = saved.checkpoints / "2"
    assert {"params", "optimizer", "position", "provenance"} <= {
        path.name for path in folder.iterdir()
    }
    position = json.loads((folder / "position/metadata").read_text())
    assert {key: position[key] for key in vars(POSITION)} == vars(
        replace(POSITION, step=2)
    )
    assert position["arrays"].keys() == {
        "params.layers.w",
        "optimizer.step",
        "optimizer.moments.0.m",
        "optimizer.moments.1",
    }


def test_a_checkpoint_without_provenance_is_restored(saved):
    """Checkpoints of version 0.1.0 have none, and no digest of it."""
    shutil.rmtree(saved.checkpoints / "2/provenance")
    _edit_position(saved, 2, provenance=None)
    checkpoints = Checkpoints(saved, Retention(2), Provenance(frozen={"teacher": "x"}))
    arrays, step = checkpoints.restore(_arrays(0), POSITION)
    checkpoints.close()
    assert step == 2
    _equal(arrays, _arrays(2))


def test_a_damaged_checkpoint_is_moved_and_the_one_before_is_used(saved, capsys):
    path = saved.checkpoints / "2/position/metadata"
    position = json.loads(path.read_text())
    position["arrays"]["params.layers.w"] ^= 1
    path.write_text(json.dumps(position))
    # Of an earlier session; it stays.
    (saved.damaged_checkpoints / "2").mkdir(parents=True)
    checkpoints = Checkpoints(saved, Retention(2))
    arrays, step = checkpoints.restore(_arrays(0), POSITION)
    assert step == 1
    _equal(arrays, _arrays(1))
    assert (saved.damaged_checkpoints / "2-2" / "params").is_dir()
    printed = capsys.readouterr().out
    assert "checkpoint 2 cannot be restored (ValueError: params.layers.w" in printed
    # The run repeats the step and saves it.
    assert checkpoints.latest == 1
    assert _save(checkpoints, 2) == []
    checkpoints.close()
    assert Checkpoints(saved, Retention(2)).restore(_arrays(0), POSITION)[1] == 2


def _swap_provenance(checkpoints):
    (checkpoints / "2/provenance").rename(checkpoints / "other")
    (checkpoints / "1/provenance").rename(checkpoints / "2/provenance")
    (checkpoints / "other").rename(checkpoints / "1/provenance")


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda c: shutil.copytree(c / "2", c / "99"), "99.*the state of step 2"),
        (lambda c: (c / "1").rename(c / "3"), "3.*holds the state of step 1"),
        (lambda c: shutil.rmtree(c / "2/provenance"), "2.*its provenance is damaged"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_set_aside(
    saved, capsys, change, reason
):
    change(saved.checkpoints)
    checkpoints = Checkpoints(saved, Retention(2))
    step = checkpoints.restore(_arrays(0), POSITION)[1]
    checkpoints.close()
    assert step == (1 if reason.startswith("2") else 2)
    assert re.search(rf"checkpoint {reason}.*moved to", capsys.readouterr().out)
    assert len(list(saved.damaged_checkpoints.iterdir())) == 1


def test_a_provenance_of_another_checkpoint(tmp_path):
    run_dir = RunDir(tmp_path)
    for step, seed in ((1, 0), (2, 7)):
        checkpoints = Checkpoints(run_dir, Retention(2), Provenance({"seed": seed}))
        _save(checkpoints, step)
        checkpoints.close()
    _swap_provenance(run_dir.checkpoints)
    with pytest.raises(ValueError, match="2: .*provenance.*\n  1: .*provenance"):
        Checkpoints(run_dir, Retention(2)).restore(_arrays(0), POSITION)


@pytest.mark.parametrize("name", ["lr[1e-3]", "a*b", "a?b", "a\\b", "[!a]"])
def test_paths_that_orbax_expands_are_refused(tmp_path, name):
    """Their checkpoints would be unreadable, and only the resumption would notice."""
    for run_dir in (tmp_path / name, tmp_path / name / "run"):
        with pytest.raises(ValueError, match="choose a path without"):
            Checkpoints(RunDir(run_dir), Retention(2))


@pytest.mark.parametrize(
    "name",
    [
        "a]b",
        "{a,b}",
        "a b",
        "ü-日本",
        "a%20b",
        "a%b",
        "a#b",
        "a|b",
        "'\"$~:&;@=,^",
        "-x",
    ],
)
def test_checkpoints_at_other_unusual_paths_are_read_again(tmp_path, name):
    run_dir = RunDir(tmp_path / name / "run")
    checkpoints = Checkpoints(run_dir, Retention(2))
    _save(checkpoints, 1)
    checkpoints.wait()
    _equal(checkpoints.restore(_arrays(0), POSITION)[0], _arrays(1))
    checkpoints.close()
    stored = find_checkpoint(run_dir.path).params()["layers"]["w"]
    np.testing.assert_array_equal(
        np.asarray(stored), _arrays(1)["params"]["layers"]["w"]
    )


def test_a_save_without_its_files_is_an_error(tmp_path):
    """Orbax completed such checkpoints without a word where its glob found nothing."""
    checkpoints = Checkpoints(RunDir(tmp_path), Retention(2))
    _save(checkpoints, 1)
    checkpoints._manager.wait_until_finished()
    (tmp_path / "checkpoints/1/params/manifest.ocdbt").unlink()
    with pytest.raises(OSError, match="checkpoints/1 is unreadable.*params/manifest"):
        checkpoints.wait()
    assert checkpoints.wait() == []
    checkpoints.close()


def test_a_checkpoint_of_other_data_is_refused(saved):
    checkpoints = Checkpoints(saved, Retention(2))
    with pytest.raises(ValueError, match="taken on other data: fingerprint was 'data'"):
        checkpoints.restore(_arrays(0), replace(POSITION, fingerprint="other"))
    checkpoints.close()


def test_versions_are_noted_and_other_frozen_models_refused(tmp_path, capsys):
    run_dir = RunDir(tmp_path)
    before = Provenance({"seed": 1}, {"teacher": "aa"}, {"jax": "0.9"})
    checkpoints = Checkpoints(run_dir, Retention(), before)
    _save(checkpoints, 1)
    checkpoints.close()
    now = replace(before, versions={"jax": "0.10"})
    checkpoints = Checkpoints(run_dir, Retention(), now)
    assert checkpoints.restore(_arrays(0), POSITION)[1] == 1
    assert "checkpoint 1: jax was 0.9 and is 0.10" in capsys.readouterr().out
    checkpoints.close()
    swapped = replace(before, frozen={"teacher": "bb"})
    with pytest.raises(ValueError, match="frozen teacher has other weights.*aa.*bb"):
        Checkpoints(run_dir, Retention(), swapped).restore(_arrays(0), POSITION)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, if the user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder, leave):
    """Write a file that leaves `leave` bytes free."""
    path = folder / "ballast"
    with path.open("wb") as file:
        file.write(b"x" * (disk_full.free_bytes(folder) - leave))
    return path


@pytest.mark.parametrize("known", [True, False])
def test_a_real_full_disk_costs_one_save(small_disk, monkeypatch, caplog, known):
    """Without the size in advance, as with a quota, the error of C++ comes later."""
    if not known:
        monkeypatch.setattr(manager, "_num_bytes", lambda tree: 0)
    run_dir, size = RunDir(small_disk / "run"), {"size": 50_000}
    checkpoints = Checkpoints(run_dir, Retention(1))
    assert _save(checkpoints, 1, **size) == []
    assert checkpoints.wait() == []
    ballast = _fill(small_disk, leave=150_000)
    messages = _save(checkpoints, 2, **size) + checkpoints.wait()
    (message,) = messages
    assert message.startswith("checkpoint 2 was not saved: no space left for")
    assert ("about 400 kB required" in message) == known
    assert "checkpoint 1 is intact" in message
    assert not [record for record in caplog.records if record.exc_info]
    # The half-written checkpoint no longer occupies the space.
    assert disk_full.free_bytes(small_disk) > 100_000
    assert checkpoints.latest == 1
    ballast.unlink()
    assert _save(checkpoints, 3, **size) == []
    checkpoints.close()
    again = Checkpoints(run_dir, Retention(1))
    arrays, step = again.restore(_arrays(0, **size), POSITION)
    assert step == 3
    _equal(arrays, _arrays(3, **size))
    again.close()


def _full(times, monkeypatch):
    """Make the first `times` saves fail for lack of space."""
    begin, left = Checkpoints._begin, [times]

    def fail(self, arrays, position, metrics):
        if left[0]:
            left[0] -= 1
            raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")
        begin(self, arrays, position, metrics)

    monkeypatch.setattr(Checkpoints, "_begin", fail)
    monkeypatch.setattr(disk_full, "LAST_SAVE_SECONDS", 0.2)
    monkeypatch.setattr(disk_full, "LAST_SAVE_INTERVAL", 0.01)


def test_the_last_save_is_retried(tmp_path, monkeypatch):
    _full(3, monkeypatch)
    # Each attempt takes a moment, and much longer on a busy machine.
    monkeypatch.setattr(disk_full, "LAST_SAVE_SECONDS", 60)
    checkpoints, messages = Checkpoints(RunDir(tmp_path), Retention(1)), []
    position = replace(POSITION, step=4)
    checkpoints.save_last(_arrays(4), position, {"loss": 1.0}, messages.append)
    assert checkpoints.latest == 4 and len(messages) == 1
    checkpoints.close()


def test_the_last_save_gives_up_when_the_disk_stays_full(tmp_path, monkeypatch):
    checkpoints, messages = Checkpoints(RunDir(tmp_path), Retention(1)), []
    assert _save(checkpoints, 1) == []
    checkpoints.wait()
    _full(10**9, monkeypatch)
    position = replace(POSITION, step=4)
    with pytest.raises(OSError, match=r"step 4, was not saved.*\(1\) is intact"):
        checkpoints.save_last(_arrays(4), position, {"loss": 1.0}, messages.append)
    assert len(messages) == 1 and checkpoints.latest == 1
    checkpoints.close()


def test_sigterm_ends_the_wait_for_room(tmp_path, monkeypatch):
    """Schedulers kill sooner than the retries end."""
    checkpoints = Checkpoints(RunDir(tmp_path), Retention(1))
    _full(10**9, monkeypatch)
    monkeypatch.setattr(disk_full, "LAST_SAVE_SECONDS", 300)
    monkeypatch.setattr(disk_full, "LAST_SAVE_INTERVAL", 300)
    position, began = replace(POSITION, step=4), time.monotonic()
    with StopSignal():
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM])
        timer.start()
        with pytest.raises(OSError, match="There is none before it"):
            checkpoints.save_last(_arrays(4), position, {"loss": 1.0}, lambda _: None)
        timer.join()
    assert time.monotonic() - began < 30
    checkpoints.close()


def test_an_error_that_is_not_a_full_disk_is_raised(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Checkpoints, "_begin", broken)
    with pytest.raises(OSError, match="Input/output"):
        _save(Checkpoints(RunDir(tmp_path), Retention(1)), 1)


def _change_a_parameter(run_dir, step):
    """Replace the parameters of a checkpoint by others."""
    path = run_dir.checkpoints / str(step)
    with ocp.CheckpointManager(run_dir.checkpoints.absolute()) as orbax:
        item = ocp.args.StandardRestore(_arrays(step)["params"])
        params = orbax.restore(step, args=ocp.args.Composite(params=item)).params
    params["layers"]["w"] = params["layers"]["w"].at[0, 0].add(1)
    shutil.rmtree(path / "params")
    with ocp.StandardCheckpointer() as writer:
        writer.save((path / "params").absolute(), params)


def test_a_model_with_a_changed_parameter_is_refused(saved):
    """By exports, which read layer by layer, and where it is loaded on devices."""
    stored = find_checkpoint(saved.path)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        _arrays(2)["params"],
    )
    stored.verify(stored.params())
    _equal(stored.load(like), _arrays(2)["params"])
    _change_a_parameter(saved, 2)
    for read in (lambda: stored.verify(stored.params()), lambda: stored.load(like)):
        with pytest.raises(ValueError, match="checkpoints/2 is damaged: layers.w diff"):
            read()
    find_checkpoint(saved.path, 1).verify(find_checkpoint(saved.path, 1).params())


def test_a_flipped_bit_would_pass_for_a_parameter(saved, monkeypatch):
    """The control: without checksums, Orbax silently restores a wrong number."""
    _change_a_parameter(saved, 2)
    checkpoints = Checkpoints(saved, Retention(2))
    with monkeypatch.context() as patch:
        patch.setattr(manager, "verify", lambda arrays, checksums: None)
        arrays, step = checkpoints.restore(_arrays(0), POSITION)
    assert step == 2
    assert (
        arrays["params"]["layers"]["w"] != _arrays(2)["params"]["layers"]["w"]
    ).any()
    assert checkpoints.restore(_arrays(0), POSITION)[1] == 1
    checkpoints.close()
