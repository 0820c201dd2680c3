"""Logits equal those that transformers computed, from files, with no torch.

The files are written by tests/parity/golden.py.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models.decoder import apply, head

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, tmp_path):
    kept = np.load(GOLDEN / f"{family}.npz")
    tensors = {n[7:]: kept[n] for n in kept.files if n.startswith("tensor:")}
    save_file(tensors, tmp_path / "model.safetensors")
    document = json.loads(str(kept["config"]))
    (tmp_path / "config.json").write_text(json.dumps(document))
    config = load_config(tmp_path)
    assert config.model_type == family
    params = load_params(tmp_path, config)

    @jax.jit
    def logits(params):
        hidden = apply(config, params, jnp.asarray(kept["tokens"]))
        return hidden @ head(params).T

    assert np.abs(kept["logits"]).max() > 1
    np.testing.assert_allclose(logits(params), kept["logits"], atol=1e-4)
