"""The same checkpoint gives the same logits here and in transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

import tiny  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config  # noqa: E402

from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402

pytestmark = pytest.mark.parity


def our_logits(config, params, ids, dtype=jnp.float32):
    hidden = apply(config, params, jnp.asarray(ids), dtype=dtype)
    return np.asarray(hidden @ head(params).astype(dtype).T, np.float32)


@pytest.mark.parametrize("case", tiny.CASES)
def test_both_directions(case, tmp_path):
    theirs = tiny.build(**tiny.CASES[case])
    theirs.save_pretrained(tmp_path / "theirs")
    config = load_config(tmp_path / "theirs")
    params = load_params(tmp_path / "theirs", config)
    ids = tiny.tokens()
    want = tiny.logits(theirs, ids)
    assert np.abs(want).max() > 1  # the bound below means something
    np.testing.assert_allclose(our_logits(config, params, ids), want, atol=1e-4)

    save_pretrained(tmp_path / "ours", config, params)
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    np.testing.assert_array_equal(tiny.logits(back, ids), want)


def test_llama3_scaling_is_not_a_bystander():
    scaled = tiny.build(**tiny.CASES["llama3-rope"])
    plain = tiny.build(family=LlamaConfig, rope_parameters={"rope_theta": 500_000.0})
    ids = tiny.tokens()
    difference = np.abs(tiny.logits(scaled, ids) - tiny.logits(plain, ids))
    assert difference.max() > 1e-2


@pytest.mark.parametrize("family", [Qwen2Config, LlamaConfig])
def test_bfloat16_checkpoint(family, tmp_path):
    theirs = tiny.build(family=family).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    config = load_config(tmp_path / "theirs")
    ids = tiny.tokens()
    params = load_params(tmp_path / "theirs", config, dtype=jnp.float32)
    # Read again: casting a live model would round its rotary buffer as well.
    want = tiny.logits(
        AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32),
        ids,
    )
    np.testing.assert_allclose(our_logits(config, params, ids), want, atol=1e-4)

    save_pretrained(tmp_path / "ours", config, params, dtype=jnp.bfloat16)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert back.dtype == torch.bfloat16
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def test_sharded_both_ways(tmp_path):
    theirs = tiny.build(family=Qwen2Config)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    config = load_config(tmp_path / "theirs")
    params = load_params(tmp_path / "theirs", config)
    ids = tiny.tokens()
    want = tiny.logits(theirs, ids)
    np.testing.assert_allclose(our_logits(config, params, ids), want, atol=1e-4)

    save_pretrained(tmp_path / "ours", config, params, max_shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(tiny.logits(back, ids), want)


def test_long_positions_stay_close(tmp_path):
    """Rotary angles at positions in the hundreds, where float32 starts to matter."""
    theirs = tiny.build(**tiny.CASES["llama3-rope"])
    theirs.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    ids = tiny.tokens(rows=1, length=480)
    got = our_logits(config, load_params(tmp_path, config), ids)
    np.testing.assert_allclose(got, tiny.logits(theirs, ids), atol=2e-4)
