"""Adapters read back: exports of this package, and files as PEFT's variants write."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from support import rig

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.hf.peft import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from targetsft_jax.hf.peft_import import is_adapter, open_adapter
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.models.rope import YarnScaling

PREFIX = "base_model.model.model.layers"


def decoder(model_type):
    flags = {**PLAIN, **FAMILIES[model_type].flags}
    if FAMILIES[model_type].scales_queries:
        flags["rope_scaling"] = YarnScaling(4.0, 64, llama_4_scaling_beta=0.1)
    return DecoderConfig(40, 16, 24, 2, 4, 2, model_type=model_type, **flags)


def write(folder, tensors, **document):
    """A folder as PEFT writes it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plain = {"peft_type": "LORA", "base_model_name_or_path": "owner/base"}
    plain |= {"r": 2, "lora_alpha": 4, "bias": "none", "init_lora_weights": True}
    (folder / CONFIG_FILE).write_text(json.dumps(plain | document))
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def pair(layer=0, module="self_attn.q_proj", rank=2, rows=16, wide=16, seed=0):
    rng = np.random.default_rng(seed)
    name = f"{PREFIX}.{layer}.{module}"
    return {
        f"{name}.lora_A.weight": rng.normal(size=(rank, wide)).astype("f4"),
        f"{name}.lora_B.weight": rng.normal(size=(rows, rank)).astype("f4"),
    }


def product(tensors):
    """B·A of one module, [out, in] in float64."""
    a, b = (x.astype("f8") for x in tensors.values())
    return b @ a


def delta(tree, lora, name="q", group="attention", layer=0):
    """What is added to a kernel, [in, out]."""
    leaf = tree["layers"][group][name]
    a, b = (leaf[key][layer].astype("f8") for key in ("lora_a", "lora_b"))
    return lora.scale * a @ b


# The experts of a mixture have no adapters.
DENSE = [name for name, entry in FAMILIES.items() if "num_experts" not in entry.reads]


@pytest.mark.parametrize("model_type", DENSE)
def test_an_export_is_read_back(model_type, tmp_path):
    config, lora = decoder(model_type), Lora(2, 5.0, ("q", "v", "up", "down"))
    adapters = jax.device_get(rig.adapters_of(config, lora))
    save_adapter(tmp_path / "a", config, adapters, lora, base="owner/base")
    adapter = open_adapter(tmp_path / "a")
    assert adapter.base == "owner/base"
    tree, back = adapter.load(config)
    assert back.scale == lora.scale and set(back.targets) >= set(lora.targets)
    for group, name in (("attention", "q"), ("mlp", "up"), ("mlp", "down")):
        for layer in range(2):
            expected = delta(adapters, lora, name, group, layer)
            actual = delta(tree, back, name, group, layer)
            np.testing.assert_allclose(actual, expected, atol=1e-6)
    if model_type == "phi3":  # k has no adapter, and shares a tensor with q and v
        assert not delta(tree, back, "k").any()


def test_ranks_scales_and_layers_may_differ(tmp_path):
    """rank_pattern and alpha_pattern by regular expressions; layers_to_transform."""
    config = decoder("llama")
    q, down = pair(1, rank=4), pair(1, "mlp.down_proj", wide=24, seed=1)
    patterns = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"1.self_attn.*": 12}}
    tree, lora = open_adapter(write(tmp_path / "a", q | down, **patterns)).load(config)
    np.testing.assert_allclose(delta(tree, lora, layer=1), 3 * product(q).T, rtol=1e-5)
    actual = delta(tree, lora, "down", "mlp", 1)
    np.testing.assert_allclose(actual, 2 * product(down).T, rtol=1e-5, atol=1e-6)
    assert not delta(tree, lora).any() and not delta(tree, lora, "down", "mlp").any()


def test_rank_stabilised_scale_and_half_precision(tmp_path):
    q = {k: v.astype(ml_dtypes.bfloat16) for k, v in pair(rank=4).items()}
    folder = write(tmp_path / "a", q, use_rslora=True, r=4, lora_alpha=6)
    tree, lora = open_adapter(folder).load(decoder("llama"))
    np.testing.assert_allclose(delta(tree, lora), 3 * product(q).T, rtol=1e-5)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected 'LORA'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = .'lm_head'."),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None"),
    ],
)
def test_refused_settings(document, message, tmp_path):
    folder = write(tmp_path / "a", pair(), **document)
    with pytest.raises(ValueError, match=message):
        open_adapter(folder)


@pytest.mark.parametrize(
    "tensors, document, message",
    [
        (pair(layer=7), {}, "layers.7.self_attn.q_proj.lora_A.*expected lora_A"),
        (pair(rows=12), {}, "do not fit the base's"),
        (pair() | {"x": np.ones(2, "f4")}, {}, "has x; expected"),
        (dict([*pair().items()][:1]), {}, "lora_B.weight is absent"),
        (pair(), {"lora_alpha": "many"}, "lora_alpha or alpha_pattern"),
        (pair(), {"alpha_pattern": {"(": 1}}, "lora_alpha or alpha_pattern"),
        ({}, {}, "has no tensor"),
    ],
)
def test_refused_tensors(tensors, document, message, tmp_path):
    adapter = open_adapter(write(tmp_path / "a", tensors, **document))
    with pytest.raises(ValueError, match=message):
        adapter.load(decoder("llama"))


def test_missing_or_damaged_tensors(tmp_path):
    folder = write(tmp_path / "a", pair())
    (folder / WEIGHTS_FILE).write_bytes(b"\1\2\3")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        open_adapter(folder).load(decoder("llama"))
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="found: .*adapter_model.bin"):
        open_adapter(folder).load(decoder("llama"))


def test_a_complete_model_is_not_an_adapter(tmp_path):
    folder = write(tmp_path / "a", pair())
    assert is_adapter(folder)
    (folder / "model.safetensors").touch()
    assert not is_adapter(folder)
