"""Conversion between checkpoints and Hugging Face folders: round trips, refusals."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import hf_folders as checkpoints
from support import rig

from targetsft_jax.checkpoints.layered_params import StoredLeaf
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.checkpoints.reader import find_checkpoint
from targetsft_jax.convert import main
from targetsft_jax.data.tokenizer import byte_tokenizer, load_tokenizer
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.train import main as train

UNKNOWN = {
    "max_window_layers": 28,
    "_name_or_path": "somewhere/model",
    "eos_token_id": [3, 4],
    "bos_token_id": None,
    "note": {"nested": [1, 2]},
}
GENERATION = '{"temperature": 0.7, "eos_token_id": [3, 4],\n "top_k": 20}'
TOKENIZER = {
    "tokenizer.json": '{"any": "bytes"}',
    "tokenizer_config.json": "{ }",
    "chat_template.jinja": "{{ messages }}",
    "merges.txt": "a b\n",
}


@pytest.fixture
def original(tmp_path):
    """A Hugging Face folder of two shards, with config keys that are not supported."""
    content = checkpoints.tensors()
    # In some checkpoints one tensor has another dtype than the rest.
    content["model.norm.weight"] = content["model.norm.weight"].astype(np.float32)
    folder = checkpoints.write(tmp_path / "original", content, shards=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | UNKNOWN))
    (folder / "generation_config.json").write_text(GENERATION)
    for name, text in TOKENIZER.items():
        (folder / name).write_text(text)
    return folder


def convert(*arguments):
    return main([str(argument) for argument in arguments])


def test_a_round_trip_is_exact(original, tmp_path):
    imported, exported = tmp_path / "imported", tmp_path / "exported"
    assert convert("from-hf", original, imported) == 0
    assert convert("to-hf", imported, exported) == 0
    before, after = (checkpoints.read(folder) for folder in (original, exported))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype, key
        assert after[key].tobytes() == tensor.tobytes(), key
    old, new = (
        json.loads((f / "config.json").read_text()) for f in (original, exported)
    )
    assert {key: new[key] for key in old} == old
    assert (exported / "generation_config.json").read_text() == GENERATION
    for name, text in TOKENIZER.items():
        assert (exported / name).read_text() == text
    card = (exported / "README.md").read_text()
    assert "Converted from `original`" in card and "optimizer step" not in card
    # Over the existing export, from the path of the checkpoint, in smaller files.
    step = imported / "checkpoints/0"
    assert convert("to-hf", step, exported, "--max-shard-size", "1.5kB") == 0
    assert len(list(exported.glob("model-*.safetensors"))) > 5
    assert checkpoints.read(exported).keys() == before.keys()
    assert not list(tmp_path.glob(".*"))


def test_folders_that_are_read_are_not_replaced(original, tmp_path, capsys):
    imported, exported = tmp_path / "imported", tmp_path / "exported"
    assert convert("from-hf", original, imported) == 0
    assert convert("to-hf", imported, exported) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for out in ("", "model", "checkpoints", "checkpoints/0"):
        assert convert("to-hf", imported, imported / out) == 1
        assert "would replace the" in capsys.readouterr().err
    assert convert("to-hf", imported, exported, "--like", exported) == 1
    (tmp_path / "link").symlink_to(exported)
    assert convert("to-hf", imported, exported, "--like", tmp_path / "link") == 1
    # What other software wrote, or someone edited.
    assert convert("to-hf", imported, original) == 1
    assert {p: p.read_bytes() for p in before} == before
    (exported / "config.json").write_text("{}")
    assert convert("to-hf", imported, exported) == 1
    assert "config.json was changed. Move it" in capsys.readouterr().err


def test_an_import_that_could_not_be_read_is_refused(original, tmp_path, capsys):
    assert convert("from-hf", original, tmp_path / "a[0]") == 1
    assert "choose a path without" in capsys.readouterr().err
    assert not (tmp_path / "a[0]").exists()


def test_dtype_is_the_requested_one(original, tmp_path):
    imported, exported = tmp_path / "imported", tmp_path / "exported"
    assert convert("from-hf", original, imported, "--dtype", "float32") == 0
    assert convert("to-hf", imported, exported, "--dtype", "float16") == 0
    document = json.loads((exported / "config.json").read_text())
    assert document["dtype"] == document["torch_dtype"] == "float16"
    before, after = (checkpoints.read(folder) for folder in (original, exported))
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor.astype(np.float16))


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """A finished run with two checkpoints, on the mesh of other tests."""
    folder = tmp_path_factory.mktemp("run")
    student = shutil.copytree(folders["student"], folder / "student")
    path = student / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "kept"}))
    keys = {"train__save_every": 2, "target__eta": 0.5, "student__path": student}
    mesh = {"mesh__fsdp": 2, "mesh__tensor": 2}
    assert train(rig.small_run(folders, folder / "run", **keys, **mesh)) == 0
    return folder / "run"


def test_export_of_a_run_equals_the_export_at_its_end(run, tmp_path):
    out = tmp_path / "out"
    assert convert("to-hf", run, out) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in (run / "hf").iterdir()}
    assert {"README.md", "tokenizer.json", "chat_template.jinja"} <= names
    for name in names:
        assert (out / name).read_bytes() == (run / "hf" / name).read_bytes(), name
    assert json.loads((out / "config.json").read_text())["note"] == "kept"
    assert load_tokenizer(out).get_vocab() == byte_tokenizer().get_vocab()
    assert convert("to-hf", run / "checkpoints/2", tmp_path / "first") == 0
    assert convert("to-hf", run, tmp_path / "again", "--step", "2") == 0
    first, again = (tmp_path / n / "model.safetensors" for n in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != (out / "model.safetensors").read_bytes()
    assert "optimizer step 2" in (tmp_path / "first/README.md").read_text()


def test_the_card_describes_the_training(run):
    card = (run / "hf/README.md").read_text()
    for text in (
        "γ = p_y",
        "π̃ = T",
        "(α, β) = (1−η, η) teacher",
        "eta = 0.5",
        "arxiv.org/abs/2606.11189",
        "teacher: `",
        "synthetic problems",
        "rows read            64",
        "trained tokens",
        "save_every: 2",
        "jax ",
        "optimizer step 4",
    ):
        assert text in card, text
    position = json.loads((run / "checkpoints/4/position/metadata").read_text())
    assert position["fingerprint"] in card
    assert "base_model" not in card  # a local path is not a hub id


def test_a_run_trains_from_checkpoints(run, tmp_path):
    """A run directory as student, one of its checkpoints as teacher."""
    mesh = make_mesh(2, 2, 2)
    for path, step in ((run, 4), (run / "checkpoints/2", 2)):
        model = open_model(path)
        assert model.config == load_config(run / "hf")
        assert model.source == run / "checkpoints" / str(step)
        assert convert("to-hf", path, tmp_path / str(step)) == 0
        expected = load_params(tmp_path / str(step), model.config)
        params = model.load(mesh, "float32")
        rig.assert_equal_trees(params, expected)
        assert len(params["embed"].sharding.device_set) == 8
        narrow = model.load(mesh, "bfloat16")
        np.testing.assert_array_equal(
            narrow["embed"], expected["embed"].astype("bfloat16")
        )
    assert open_model(run / "hf").checkpoint is None
    models = {"student": run, "teacher": run / "checkpoints/2"}
    axes = {"mesh__fsdp": 2, "mesh__tensor": 2}
    assert train(rig.small_run(models, tmp_path / "next", **axes)) == 0
    card = (tmp_path / "next/hf/README.md").read_text()
    assert "- student: `run`" in card and "- teacher: `run, step 2`" in card
    document = json.loads((tmp_path / "next/hf/config.json").read_text())
    assert document["note"] == "kept"


def test_neither_optimizer_nor_accelerator_is_needed(run, tmp_path):
    """A separate process, with a platform that does not exist."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for step in (copy / "checkpoints").iterdir():
        shutil.rmtree(step / "optimizer")
        shutil.rmtree(step / "position")
    result = subprocess.run(
        [sys.executable, "-m", "targetsft_jax.convert", "to-hf", copy, tmp_path / "o"],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    message = f"exported {copy / 'checkpoints/4'} to\n  {tmp_path / 'o'}\n"
    assert result.stdout.endswith(message)


def test_layers_are_read_one_at_a_time(run, tmp_path):
    """Also from checkpoints of earlier versions, with all layers in a chunk."""
    config = load_config(run / "hf")
    expected = load_params(run / "hf", config)
    with ocp.CheckpointManager(tmp_path / "old/checkpoints") as manager:
        manager.save(7, args=ocp.args.Composite(params=ocp.args.StandardSave(expected)))
    for folder, chunk in ((run, 1), (tmp_path / "old", 2)):
        params = find_checkpoint(folder).params()
        for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
            stored = params
            for entry in path:
                stored = stored[entry.key]
            assert isinstance(stored, StoredLeaf)
            assert (stored.shape, stored.dtype) == (leaf.shape, leaf.dtype)
            np.testing.assert_array_equal(np.asarray(stored), leaf)
            if path[0].key == "layers":
                assert stored._store.chunk_layout.read_chunk.shape[0] == chunk
                for layer in range(2):
                    np.testing.assert_array_equal(stored[layer], leaf[layer])
                assert not len(stored._layers)  # no layer is cached


def test_refusals(original, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare/checkpoints/3/params").mkdir(parents=True)
    (tmp_path / "bare/checkpoints/3/params/_METADATA").write_text("{}")
    with ocp.CheckpointManager(tmp_path / "part/checkpoints") as manager:
        adapters = ocp.args.StandardSave({"layers": {"lora_a": np.ones((2, 4))}})
        manager.save(1, args=ocp.args.Composite(params=adapters))
    shutil.copytree(run / "checkpoints/4", tmp_path / "older/checkpoints/4")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.txt").touch()
    cases = [
        (("to-hf", tmp_path / "no"), "no complete checkpoint.*no such folder"),
        (("to-hf", original), "no complete checkpoint.*found: .*config.json"),
        (("to-hf", tmp_path / "empty"), "found: nothing"),
        (("to-hf", run, "--step", "5"), "no complete checkpoint 5; it has 2, 4"),
        (("to-hf", run / "checkpoints/2", "--step", "4"), "names another"),
        (("to-hf", tmp_path / "bare"), "cannot be read.*Use another"),
        (("to-hf", tmp_path / "older"), "config.json does not exist.*--like"),
        (("to-hf", run, "--like", original), "do not fit the config"),
        (
            ("to-hf", tmp_path / "part"),
            "part/checkpoints/1 holds layers.*adapters.json",
        ),
        (
            ("to-hf", run, "--base", original),
            "expected a complete model without --base",
        ),
        (("from-hf", tmp_path / "no"), "does not exist"),
        (("from-hf", tmp_path / "empty"), "config.json does not exist"),
    ]
    for (command, source, *options), message in cases:
        assert convert(command, source, tmp_path / "out", *options) == 1
        error = capsys.readouterr().err
        assert re.search(message, error, re.S) and error.startswith("error: "), error
        assert not (tmp_path / "out").exists()
    for command, source in (("to-hf", run), ("from-hf", original)):
        assert convert(command, source, tmp_path / "notes") == 1
        assert "notes exists" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["to-hf", "a"],
        ["to-hf", "a", "b", "--dtype", "int8"],
        ["to-hf", "a", "b", "--max-shard-size", "5 apples"],
        ["to-hf", "a", "b", "--max-shard-size", "0GB"],
        ["sideways", "a", "b"],
    ],
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: targetsft convert" in capsys.readouterr().err
