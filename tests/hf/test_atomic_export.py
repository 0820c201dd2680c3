"""An interrupted export leaves the earlier export or the new one, complete."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.hf import exporter
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params, resolve
from targetsft_jax.storage import atomic

ROOT = Path(__file__).resolve().parents[2]

# Exports one number after the other. Each export is a separate process that kills
# itself before its n-th operation on a file; n grows until an export completes.
KILLED = """
import os, signal, sys, warnings
from pathlib import Path
import numpy as np, jax
from targetsft_jax.hf import exporter
from targetsft_jax.storage import atomic
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.hf.tensor_files import open_tensors

warnings.simplefilter("ignore")  # a fork of a process with threads
theirs, out, way = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
config = load_config(theirs)
params = load_params(theirs, config)
if way == "two renames":
    atomic._exchange = lambda one, other: False
os.fsync = lambda file: None  # a killed process takes no written page with it
exchange, to_host = atomic._exchange, exporter._host_tensor
events = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
left = None

def step(event, arguments=()):
    global left
    inside = event != "open" or str(arguments[0]).startswith(str(out.parent))
    if left is not None and event in (*events, "tensor", "exchanged") and inside:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def to_host_with_step(*arguments):
    step("tensor")
    return to_host(*arguments)

def exchange_with_step(*arguments):
    done = exchange(*arguments)
    step("exchanged")
    return done

sys.addaudithook(step)
exporter._host_tensor, atomic._exchange = to_host_with_step, exchange_with_step

def export(number):
    same = jax.tree.map(lambda x: np.full(x.shape, number, np.float32), params)
    save_pretrained(out, config, same, max_shard_bytes=6000)

def content(folder):
    load_config(folder)
    tensors = open_tensors(folder).values()
    (number,) = {float(x) for t in tensors for x in np.unique(t.rows(0, t.shape[0]))}
    return number

export(0)
number = kills = 0
while True:
    child = os.fork()
    if child == 0:
        left = kills + 1
        export(number + 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    kills += 1
    for folder in out.parent.iterdir():
        try:
            loaded = content(folder)
        except (ValueError, OSError):
            # Not complete yet, or being cleared away: it does not load.
            assert folder.name.startswith(".out.partial-"), (kills, folder)
        else:
            assert loaded in (number, number + 1), (kills, folder, loaded)
    if out.exists():
        number = content(out)
    else:
        assert way == "two renames" and content(atomic.former(out)) == number
assert content(out) == number + 1
assert [path.name for path in out.parent.iterdir()] == ["out"]
print(kills)
"""


@pytest.fixture
def theirs(tmp_path):
    return checkpoints.write(tmp_path / "theirs", checkpoints.tensors())


def content(folder):
    """The number to which all values of an export are equal."""
    params = load_params(folder, load_config(folder))
    (number,) = {float(x) for leaf in jax.tree.leaves(params) for x in np.ravel(leaf)}
    return number


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_killed_at_every_moment(theirs, tmp_path, way):
    """No folder, hidden or not, loads as a mixture of two exports."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, theirs, out, way],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Tensors, files, folders, renames and removals.
    assert int(done.stdout) > 40


def test_killed_between_two_renames(theirs, tmp_path, monkeypatch):
    """The only moment without the folder, which the next export restores first."""
    config = load_config(theirs)
    params = load_params(theirs, config)
    out = tmp_path / "place" / "out"
    save_pretrained(out, config, params)
    before = (out / "model.safetensors").read_bytes()
    out.rename(atomic._sibling(out, "old"))
    with pytest.raises(FileNotFoundError, match=r"killed.*complete in .*\.out\.old"):
        resolve(out)
    monkeypatch.setattr(exporter, "_write_weights", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(out, config, params)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_only_an_unchanged_export_is_replaced(theirs, tmp_path):
    """What other software wrote, or anyone changed, stays."""
    config = load_config(theirs)
    params = load_params(theirs, config)
    before = (theirs / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"theirs exists.*manifest.json is miss"):
        save_pretrained(theirs, config, params)
    assert (theirs / "model.safetensors").read_bytes() == before
    out = tmp_path / "out"
    (tmp_path / "out").mkdir()
    for number in range(3):  # an empty folder, then earlier exports
        save_pretrained(out, config, params, card=f"# {number}", max_shard_bytes=1500)
        assert (out / "README.md").read_text() == f"# {number}"
    (out / "README.md").write_text("# Mine\n")
    with pytest.raises(FileExistsError, match=r"README.md was changed\. Move"):
        save_pretrained(out, config, params)
    assert (out / "README.md").read_text() == "# Mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_a_cached_export_stays(theirs, tmp_path):
    config = load_config(theirs)
    params = load_params(theirs, config)
    out = tmp_path / "out"
    save_pretrained(out, config, params, card="# first")
    save_pretrained(out, config, params, card="# second", replace=False)
    assert (out / "README.md").read_text() == "# first"


def test_files_that_appear_during_the_export_stay(theirs, tmp_path, monkeypatch):
    config = load_config(theirs)
    params = load_params(theirs, config)
    out, real = tmp_path / "out", exporter._write_weights

    def write(*arguments):
        real(*arguments)
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")

    monkeypatch.setattr(exporter, "_write_weights", write)
    with pytest.raises(FileExistsError, match="out exists"):
        save_pretrained(out, config, params)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_unknown_keys_of_like_are_preserved(theirs, tmp_path):
    path = theirs / "config.json"
    source = json.loads(path.read_text()) | {"max_window_layers": 21, "eos_token_id": 3}
    path.write_text(json.dumps(source | {"dtype": "float32"}))
    config = load_config(theirs)
    params = load_params(theirs, config, dtype=None)
    save_pretrained(tmp_path / "out", config, params, like=theirs)
    document = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: document[key] for key in source} == source
    assert document["dtype"] == "bfloat16"  # the dtype of this export
    assert "bos_token_id" not in document  # its reader's default, as before
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"eos_token_id": 3}
