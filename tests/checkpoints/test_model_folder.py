"""The model folder of a run, and adapters merged into their base."""

import json
import os

import jax
import numpy as np
import pytest

from targetsft_jax.checkpoints.model_folder import (
    AdapterInfo,
    read_adapters,
    write_model_folder,
)
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models import lora
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.models.lora import Lora

ADAPTERS = Lora(2, 3.0, ("q", "down"))


def test_config_tokenizer_and_card_are_written(run_dir, hf_folder):
    for name in ("config.json", "tokenizer.json"):
        assert (run_dir.model / name).read_bytes() == (hf_folder / name).read_bytes()
    assert (run_dir.model / "README.md").read_text() == "# Card"
    assert read_adapters(run_dir) is None


def test_it_is_replaced_atomically(run_dir, hf_folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in run_dir.model.iterdir()}

    def fail(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        module = "targetsft_jax.checkpoints.model_folder.write_chat_template"
        patch.setattr(module, fail)
        with pytest.raises(OSError, match="the disk is full"):
            write_model_folder(run_dir, hf_folder, "# Other")
    after = {path.name: path.read_bytes() for path in run_dir.model.iterdir()}
    assert after == before
    assert not [name for name in os.listdir(run_dir.path) if name.startswith(".")]


def test_a_run_may_start_from_itself(run_dir):
    """The source is the run's model folder."""
    before = (run_dir.model / "tokenizer.json").read_bytes()
    write_model_folder(run_dir, run_dir.model, "# Again")
    assert (run_dir.model / "tokenizer.json").read_bytes() == before
    assert (run_dir.model / "README.md").read_text() == "# Again"


def test_the_trained_template_and_its_stops(run_dir, hf_folder):
    write_model_folder(run_dir, hf_folder, "# Card", template="{{ x }}", stops=[7])
    assert (run_dir.model / "chat_template.jinja").read_text() == "{{ x }}"
    generation = json.loads((run_dir.model / "generation_config.json").read_text())
    assert generation["eos_token_id"][-1] == 7


def test_other_processes_write_nothing(run_dir, hf_folder, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write_model_folder(run_dir, hf_folder, "# Other")
    assert (run_dir.model / "README.md").read_text() == "# Card"


def test_adapters_are_merged_over_a_folder_or_a_run(run_dir, hf_folder, params):
    """W + scale · A·B equals numpy's result for every kind of base path."""
    info = AdapterInfo(ADAPTERS, str(hf_folder), "float32")
    write_model_folder(run_dir, hf_folder, "# Card", info)
    assert read_adapters(run_dir) == info
    run_dir.adapters.unlink()
    adapters = lora.init_adapters(load_config(hf_folder), ADAPTERS, jax.random.key(0))
    adapters = jax.tree.map(lambda x: np.asarray(x) + 0.1, adapters)
    for base in (None, str(run_dir.path), str(run_dir.checkpoints / "0")):
        params_of_base = open_model(base or info.base).params()
        merged = lora.merged(params_of_base, adapters, info.lora, info.dtype)
        for module, name in (("attention", "q"), ("mlp", "down")):
            kernel = merged["layers"][module][name]["kernel"]
            pair = adapters["layers"][module][name]
            assert isinstance(kernel, LayerLeaf)
            for layer in range(2):
                a, b = (pair[f"lora_{x}"][layer].astype(np.float64) for x in "ab")
                expected = np.float64(params["layers"][module][name]["kernel"][layer])
                expected = expected + 3.0 / 2 * (a @ b)
                np.testing.assert_allclose(
                    kernel[layer], expected, rtol=2e-6, atol=2e-6
                )
        np.testing.assert_array_equal(
            np.asarray(merged["embed"], np.float32), params["embed"]
        )


def test_a_field_that_is_missing_is_named(run_dir):
    run_dir.adapters.write_text('{"rank": 2, "alpha": 3.0, "targets": ["q"]}')
    with pytest.raises(ValueError, match="adapters.json has no 'base'"):
        read_adapters(run_dir)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rank": "x"}, "rank is 'x'; expected a whole number"),
        ({"rank": 0}, "rank is 0; expected 1 or more"),
        ({"alpha": float("nan")}, "alpha is nan; expected a number"),
        ({"targets": 5}, "targets is 5; expected a list"),
        ({"base": 5}, "base is 5; expected a path"),
        ({"dtype": "int3"}, "dtype is 'int3'; expected one of"),
    ],
)
def test_a_field_of_another_type_is_named(run_dir, changes, message):
    fields = {
        "rank": 2,
        "alpha": 3.0,
        "targets": ["q"],
        "base": "b",
        "dtype": "float32",
    }
    run_dir.adapters.write_text(json.dumps(fields | changes))
    with pytest.raises(ValueError, match=f"adapters.json: {message}"):
        read_adapters(run_dir)
