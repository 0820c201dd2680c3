"""Logits equal those of transformers, read from golden files without torch.

The files are written by tests/support/golden_logits.py.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models.decoder import apply, head
from targetsft_jax.models.layers import soft_cap
from targetsft_jax.models.rope import YarnScaling

GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def golden(family):
    return dict(np.load(GOLDEN / f"{family}.npz"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Config and parameters by family, each read once."""

    @functools.cache
    def read(family):
        folder = tmp_path_factory.mktemp(family)
        named = golden(family)
        tensors = {n[7:]: named[n] for n in named if n.startswith("tensor:")}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(str(named["config"]))
        config = load_config(folder)
        assert config.model_type == family
        return config, load_params(folder, config)

    return read


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens):
    hidden = apply(config, params, tokens)
    return soft_cap(hidden @ head(params).T, config.final_logit_softcap)


def error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, loaded):
    config, params = loaded(family)
    expected = golden(family)["logits"]
    assert np.abs(expected).max() > 1
    assert error(logits(config, params, golden(family)["tokens"]), expected) < 2e-5


UNSCALED_QUERIES = YarnScaling(4.0, 16, mscale_all_dim=0.0)
# Flags whose omission must change the logits, each with a family that has it.
FORGOTTEN = {
    "norms of heads": ("qwen3", {"qk_norm": False}),
    "biases": ("qwen2", {"qkv_bias": False}),
    "window": ("mistral", {"sliding_window": None}),
    "a window of one token more": ("mistral", {"sliding_window": 6}),
    "part of the head": ("phi3", {"partial_rotary_factor": 1.0}),
    "1 + w": ("gemma2", {"unit_offset": False}),
    "sandwich norms": ("gemma2", {"output_norms": False}),
    "scaled embeddings": ("gemma2", {"scale_embedding": False}),
    "activation": ("gemma2", {"activation": "silu"}),
    "scale of scores": ("gemma2", {"query_pre_attn_scalar": None}),
    "cap of scores": ("gemma2", {"attn_logit_softcap": None}),
    "cap of logits": ("gemma2", {"final_logit_softcap": None}),
    "which layers": ("gemma2", {"sliding_layers": (False, True, False)}),
    "layers without positions": ("smollm3", {"rope_layers": None}),
    "factor of embeddings": ("granite", {"embedding_multiplier": 1.0}),
    "factor of outputs": ("granite", {"residual_multiplier": 1.0}),
    "factor of scores": ("granite", {"attention_multiplier": None}),
    "divisor of logits": ("granite", {"logits_scaling": 1.0}),
    "divisor below one": ("hyperclovax", {"logits_scaling": 1.0}),
    "factor of queries": ("ministral3", {"rope_scaling": UNSCALED_QUERIES}),
    "first of four layers": ("cwm", {"sliding_layers": None}),
    "norms after rotation": ("hunyuan_v1_dense", {"qk_norm_rotated": False}),
    "pairs of neighbours": ("glm4", {"rope_interleaved": False}),
    "positions in windows only": ("exaone4", {"rope_layers": None}),
    "one expert of two": ("mixtral", {"experts_per_token": 1}),
    "sum of probabilities": ("qwen3_moe", {"norm_topk_prob": False}),
    "base in windows": ("gemma3_text", {"local_rope_theta": None}),
    "scaling": ("gemma3_text", {"rope_scaling": None}),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", FORGOTTEN)
def test_an_omitted_flag_changes_the_logits(name, loaded):
    family, changes = FORGOTTEN[name]
    config, params = loaded(family)
    other = dataclasses.replace(config, **changes)
    expected = golden(family)["logits"]
    assert error(logits(other, params, golden(family)["tokens"]), expected) > 1e-3


@pytest.mark.parametrize("changes", [{"qk_norm_full": False}, {"input_norms": True}])
def test_an_omitted_norm_does_not_fit_the_parameters(changes, loaded):
    config, params = loaded("olmo2")
    other = dataclasses.replace(config, **changes)
    with pytest.raises(Exception, match="q_norm|input_norm"):
        logits(other, params, golden("olmo2")["tokens"])
