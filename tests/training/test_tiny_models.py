"""Cached start models: read if intact, built again if damaged, shared by makers."""

import jax
import jax.numpy as jnp
import pytest

from targetsft_jax.config.build import BuildConfig
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.parallel.preemption import Preempted
from targetsft_jax.storage import manifest
from targetsft_jax.training import tiny_models
from targetsft_jax.training.fit import Fitted
from targetsft_jax.training.state import TrainState

BUILD = BuildConfig(
    hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1
)


@pytest.fixture
def trainings(monkeypatch):
    """Trainings of start models, each in place of `fit`."""
    calls = []

    def fit(spec, start, *arguments, **options):
        calls.append(options["run_dir"])
        params = decoder.init_params(spec.student, jax.random.key(0))
        return Fitted(TrainState(jnp.int32(0), params, None), 0)

    monkeypatch.setattr(tiny_models, "fit", fit)
    return calls


def _model(cache):
    return tiny_models.start_model("student", BUILD, str(cache), make_mesh(8, 1, 1))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: _flip(f / "model.safetensors"), "model.safetensors was changed"),
        (
            lambda f: (f / "tokenizer.json").write_text("{"),
            "tokenizer.json was changed",
        ),
        (
            lambda f: (f / manifest.FILE).unlink(),
            f"{manifest.FILE} is missing or damaged",
        ),
        (lambda f: (f / "notes").write_text("mine"), "notes is not in its manifest"),
    ],
)
def test_a_damaged_model_is_built_again(tmp_path, trainings, capsys, damage, reason):
    folder = _model(tmp_path)
    assert _model(tmp_path) == folder and len(trainings) == 1
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert _model(tmp_path) == folder and len(trainings) == 2
    assert manifest.differences(folder) == []
    # Nothing is lost, since the files may be a user's.
    aside = tmp_path / f"{folder.name}.damaged"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert f"is damaged ({reason}" in capsys.readouterr().out


def test_of_two_makers_the_first_to_finish_wins(tmp_path, trainings, monkeypatch):
    real = tiny_models.save_pretrained

    def save(folder, *arguments, **options):
        # Another run finishes first.
        save_pretrained(folder, *arguments, tokenizer=byte_tokenizer(), card="# first")
        real(folder, *arguments, **options)

    monkeypatch.setattr(tiny_models, "save_pretrained", save)
    folder = _model(tmp_path)
    assert (folder / "README.md").read_text() == "# first"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_signal_names_the_model_that_is_not_finished(tmp_path, monkeypatch):
    def fit(*arguments, **options):
        raise Preempted(step=3)

    monkeypatch.setattr(tiny_models, "fit", fit)
    with pytest.raises(Preempted, match="start model of the student is not finished"):
        _model(tmp_path)
    assert list(tmp_path.iterdir()) == []
