"""Adapters in PEFT's layout, against products of the trained matrices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.hf.peft import CONFIG_FILE, save_adapter
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora, init_adapters
from targetsft_jax.storage import manifest

PREFIX = "base_model.model.model.layers.1."


def export(folder, model_type, targets):
    flags = {**PLAIN, **FAMILIES[model_type].flags}
    config = DecoderConfig(40, 16, 24, 2, 4, 2, model_type=model_type, **flags)
    lora = Lora(2, 5.0, targets)
    adapters = init_adapters(config, lora, jax.random.key(0))
    adapters = jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape), adapters)
    save_adapter(folder, config, adapters, lora, base="owner/base")
    document = json.loads((folder / CONFIG_FILE).read_text())
    return config, adapters["layers"], checkpoints.read(folder), document


def test_matrices_are_transposed_and_separate(tmp_path):
    _, layers, tensors, document = export(tmp_path / "a", "llama", ("q", "down"))
    assert document["target_modules"] == ["q_proj", "down_proj"]
    assert (document["r"], document["lora_alpha"]) == (2, 5)
    assert document["rank_pattern"] == document["alpha_pattern"] == {}
    assert document["base_model_name_or_path"] == "owner/base"
    pair = layers["mlp"]["down"]
    for name, leaf in (("lora_A", pair["lora_a"]), ("lora_B", pair["lora_b"])):
        stored = tensors[f"{PREFIX}mlp.down_proj.{name}.weight"]
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, leaf[1].T)
    assert len(tensors) == 2 * 2 * 2  # layers, modules, matrices


def test_a_fused_module_has_the_products_of_its_parts(tmp_path):
    """Phi-3 has q, k and v in one tensor; k has no adapter here."""
    _, layers, tensors, document = export(tmp_path / "a", "phi3", ("q", "v"))
    assert document["rank_pattern"] == {"qkv_proj": 4}
    assert document["alpha_pattern"] == {"qkv_proj": 10.0}
    a, b = (
        tensors[f"{PREFIX}self_attn.qkv_proj.{name}.weight"]
        for name in ("lora_A", "lora_B")
    )
    product = b @ a
    for name, rows in (("q", slice(0, 16)), ("v", slice(24, 32))):
        pair = layers["attention"][name]
        expected = np.asarray(pair["lora_a"][1] @ pair["lora_b"][1]).T
        np.testing.assert_allclose(product[rows], expected, rtol=1e-6)
    assert not product[16:24].any()


def test_only_earlier_adapters_are_replaced(tmp_path):
    target = tmp_path / "adapter"
    for _ in range(2):
        export(target, "llama", ("q",))
    assert manifest.differences(target) == []
    (target / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="notes.txt"):
        export(target, "llama", ("q",))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is not a folder"):
        export(tmp_path / "file", "llama", ("q",))
