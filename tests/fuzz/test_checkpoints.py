"""Malformed checkpoints: reported and passed over, or read as they were saved."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.storage.run_dir import RunDir

CASES = 70
POSITION = Position(0, 3, 8, "data")


def _arrays(step):
    layers = {"w": jnp.arange(48.0).reshape(2, 4, 6) + step}
    params = {"embed": jnp.arange(40.0).reshape(8, 5) * step, "layers": layers}
    moments = jax.tree.map(lambda x: x / 7, params)
    optimizer = {"step": jnp.int32(step), "moments": {"mu": moments}}
    return {"params": params, "optimizer": optimizer}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A run directory with the checkpoints of steps 1 and 2."""
    run_dir = tmp_path_factory.mktemp("intact")
    checkpoints = Checkpoints(RunDir(run_dir), Retention(2))
    for step in (1, 2):
        checkpoints.save(_arrays(step), replace(POSITION, step=step), {"loss": 1.0})
    checkpoints.close()
    return run_dir


def _restore(run_dir):
    """(step, True if the arrays equal those saved at that step)."""
    checkpoints = Checkpoints(RunDir(run_dir), Retention(2))
    try:
        arrays, step = checkpoints.restore(_arrays(0), POSITION)
    finally:
        checkpoints.close()
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), arrays, _arrays(step))
    return step, all(jax.tree.leaves(equal))


def _damages(path, rng):
    """Functions that damage a file, each in another way."""
    content = path.read_bytes()
    place = int(rng.integers(max(1, len(content))))

    def flip():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))

    def become_a_folder():
        path.unlink()
        path.mkdir()

    damages = [
        path.unlink,
        become_a_folder,
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(rng.bytes(len(content))),
        lambda: path.write_bytes(content[:place]),
        lambda: path.write_bytes(content + b"\0"),
    ]
    # An empty file has nothing to flip; only checksums detect flips.
    return damages + [flip] * 6 if content else damages[:2]


@pytest.mark.slow
def test_random_damage_is_reported_or_of_no_consequence(intact, tmp_path, count, capfd):
    """Damage of the newest checkpoint in one place causes no wrong number or crash."""
    rng = np.random.default_rng(0)
    for case in range(CASES):
        run_dir = tmp_path / str(case)
        shutil.copytree(intact, run_dir)
        newest = run_dir / "checkpoints/2"
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        path = files[rng.integers(len(files))]
        damages = _damages(path, rng)
        damages[rng.integers(len(damages))]()
        capfd.readouterr()
        step, equal = _restore(run_dir)
        assert equal, (case, path)
        printed = capfd.readouterr().out
        if step == 2:
            # An unread file, or unread bytes of a file.
            count("checkpoints", "of no consequence, read the same")
        else:
            assert step == 1 and "checkpoint 2 cannot be restored" in printed
            assert (RunDir(run_dir).damaged_checkpoints / "2").is_dir()
            count("checkpoints", "named and passed over")
        shutil.rmtree(run_dir)


def test_a_malformed_position_is_reported(intact, tmp_path, count, capfd):
    """Truncated or malformed JSON with intact arrays."""
    (original,) = (intact / "checkpoints/2/position").glob("metadata*")
    saved = json.loads(original.read_text())
    arrays = saved["arrays"]
    wrong = [
        *("", "[]", "null", "3", '"x"', "{}", "{", original.read_text()[:-3]),
        *(saved | {"arrays": x} for x in (None, [], {}, 3, "x", {"params.embed": 1})),
        *({k: v for k, v in saved.items() if k != key} for key in ("arrays",)),
        *(saved | {"arrays": arrays | {key: arrays[key] + 1}} for key in arrays),
        *(saved | {"arrays": arrays | {key: str(arrays[key])}} for key in arrays),
        *(
            saved | {"arrays": {k: v for k, v in arrays.items() if k != key}}
            for key in arrays
        ),
    ]
    for case, content in enumerate(wrong):
        run_dir = tmp_path / str(case)
        shutil.copytree(intact, run_dir)
        text = content if isinstance(content, str) else json.dumps(content)
        (run_dir / "checkpoints/2/position" / original.name).write_text(text)
        assert _restore(run_dir) == (1, True), content
        assert "checkpoint 2 cannot be restored" in capfd.readouterr().out
        count("checkpoints", "named and passed over")
        shutil.rmtree(run_dir)


def test_nothing_is_moved_when_all_are_damaged(intact, tmp_path, count):
    rng = np.random.default_rng(1)
    for case in range(10):
        run_dir = tmp_path / str(case)
        shutil.copytree(intact, run_dir)
        for step in (1, 2):
            item = "params" if rng.integers(2) else "optimizer"
            shutil.rmtree(run_dir / "checkpoints" / str(step) / item)
        before = sorted(str(path) for path in run_dir.rglob("*"))
        with pytest.raises(ValueError, match="Nothing was deleted") as refused:
            _restore(run_dir)
        message = str(refused.value)
        assert "  2: " in message and "  1: " in message
        assert sorted(str(path) for path in run_dir.rglob("*")) == before
        count("checkpoints", "all damaged, refused, nothing moved")
