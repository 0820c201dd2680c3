"""Checkpoints of every family: round trips bit for bit, and fused tensors."""

import collections
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import hf_folders as checkpoints

from targetsft_jax.hf import shard_reader
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.hf.tensor_map import checkpoint_tensors
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params, logical_axes
from targetsft_jax.models.rope import YarnScaling

SCALED_QUERIES = YarnScaling(4.0, 64, llama_4_scaling_beta=0.1)
# Some of the flags that are read from config.json.
READ = {
    "llama": {"qkv_bias": True, "o_bias": True},
    "gemma2": {"query_pre_attn_scalar": 5, "final_logit_softcap": 3.0},
    "gemma3_text": {"query_pre_attn_scalar": 5},
    "vaultgemma": {"query_pre_attn_scalar": 5},
    "granite": {"attention_multiplier": 0.25},
    "qwen3_moe": {"num_experts": 4, "experts_per_token": 2, "expert_size": 12},
    "mixtral": {"num_experts": 4, "experts_per_token": 2, "expert_size": 24},
    "olmoe": {"num_experts": 4, "experts_per_token": 2, "expert_size": 24},
    "ministral3": {"rope_scaling": SCALED_QUERIES},
    "hyperclovax": {"output_norms": True, "attention_multiplier": 0.25},
}


def config_of(model_type, **changes):
    flags = {**PLAIN, **FAMILIES[model_type].flags, **READ.get(model_type, {})}
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24}
    heads = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    return DecoderConfig(**sizes, **heads, model_type=model_type, **flags | changes)


def random_params(config):
    shapes = abstract_params(config)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), "f4"), shapes)


@pytest.mark.sweep(7)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_round_trip_is_bit_exact(model_type, tied, tmp_path):
    config = config_of(model_type, tie_word_embeddings=tied)
    params = random_params(config)
    save_pretrained(tmp_path / "m", config, params)
    assert load_config(tmp_path / "m") == config
    back = load_params(tmp_path / "m", config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_parameter_is_in_one_tensor(model_type):
    """Each layer and expert of each leaf is in one tensor, and nothing else is."""
    config = config_of(model_type, tie_word_embeddings=False)
    shapes = abstract_params(config)
    expected = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = tuple(entry.key for entry in path)
        layers = range(leaf.shape[0]) if names[0] == "layers" else [None]
        experts = range(leaf.shape[1]) if leaf.ndim == 4 else [None]
        expected |= {(names, *index): 1 for index in itertools.product(layers, experts)}
    slices = [
        (part.path, part.layer, part.expert)
        for parts in checkpoint_tensors(config).values()
        for part in parts
    ]
    assert collections.Counter(slices) == expected


@pytest.mark.parametrize("model_type", ["phi3", "gemma3_text", "qwen3_moe"])
def test_pieces_of_fused_tensors(model_type, tmp_path, monkeypatch):
    """Row by row, onto devices that share the heads."""
    config = config_of(model_type)
    params = random_params(config)
    save_pretrained(tmp_path / "m", config, params)
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    where = {"heads": "b", "kv_heads": "b", "mlp": "b", "embed": "a"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        logical_axes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    for shard in (shard_reader._HostShard, shard_reader._DeviceShard):
        monkeypatch.setattr(shard_reader, "_HostShard", shard)
        monkeypatch.setattr(shard_reader, "PIECE_BYTES", 5 * config.hidden_size * 4)
        back = load_params(tmp_path / "m", config, shardings=shardings)
        jax.tree.map(np.testing.assert_array_equal, back, params)


def test_fused_tensors_have_their_parts_in_order(tmp_path):
    config = config_of("phi3")
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    stored = checkpoints.read(tmp_path)
    for stored_name, module, names in (
        ("self_attn.qkv_proj", "attention", "qkv"),
        ("mlp.gate_up_proj", "mlp", ("gate", "up")),
    ):
        parts = [params["layers"][module][name]["kernel"][1].T for name in names]
        np.testing.assert_array_equal(
            stored[f"model.layers.1.{stored_name}.weight"], np.concatenate(parts)
        )


def test_fused_tensors_are_read_in_parts(tmp_path):
    """Heads and MLP over two devices, the width over two."""
    config = config_of("phi3")
    params = random_params(config)
    save_pretrained(tmp_path, config, params)
    mesh = jax.make_mesh(
        (2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )
    where = {"embed": "a", "heads": "b", "kv_heads": "b", "mlp": "b"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        logical_axes(config),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    back = load_params(tmp_path, config, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_fused_tensor_of_a_wrong_size_is_named(tmp_path):
    config = config_of("phi3")
    save_pretrained(tmp_path, config, random_params(config))
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["num_key_value_heads"] = 4
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(
        ValueError, match=r"qkv_proj.weight is \(64, 16\), expected \(96, 16\)"
    ):
        load_params(tmp_path, load_config(tmp_path))
