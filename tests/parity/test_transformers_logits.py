"""Logits of a checkpoint equal those of transformers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402
from targetsft_jax.models.layers import soft_cap  # noqa: E402

pytestmark = pytest.mark.parity


@functools.partial(jax.jit, static_argnums=0, static_argnames="dtype")
def _logits(config, params, ids, positions, segment_ids, dtype):
    options = {"positions": positions, "segment_ids": segment_ids, "dtype": dtype}
    hidden = apply(config, params, ids, **options)
    logits = hidden @ head(params).astype(dtype).T
    return soft_cap(logits.astype(jnp.float32), config.final_logit_softcap)


def our_logits(
    config, params, ids, positions=None, segment_ids=None, *, dtype=jnp.float32
):
    """Logits, by one program for rows with one segment and for packed rows."""
    if positions is None:
        positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
        segment_ids = np.ones_like(ids)
    return _logits(config, params, ids, positions, segment_ids, dtype=dtype)


def error(actual, expected):
    """Largest difference, relative to the largest logit."""
    assert np.abs(expected).max() > 1
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", tiny.CASES)
def test_both_directions(case, tmp_path, record_property):
    theirs = tiny.build(**tiny.CASES[case])
    record_property("family", theirs.config.model_type)
    theirs.save_pretrained(tmp_path / "theirs")
    config = load_config(tmp_path / "theirs")
    params = load_params(tmp_path / "theirs", config)
    ids = tiny.tokens()
    expected = tiny.logits(theirs, ids)
    difference = error(our_logits(config, params, ids), expected)
    record_property("parity error", float(difference))
    assert difference < 2e-5
    record_property("import", True)

    save_pretrained(tmp_path / "ours", config, params)
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    np.testing.assert_array_equal(tiny.logits(back, ids), expected)
    assert load_config(tmp_path / "ours") == config
    record_property("export", True)


# Longer and shorter than the windows of the cases; 40 tokens in all.
SEGMENTS = (19, 5, 16)


@pytest.mark.parametrize("case", tiny.ONE_EACH.values())
def test_packed_rows_equal_transformers_on_separate_rows(
    case, tmp_path, record_property
):
    theirs = tiny.build(**tiny.CASES[case])
    theirs.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    ids = tiny.tokens()
    parts = np.split(ids, np.cumsum(SEGMENTS)[:-1], axis=1)
    expected = np.concatenate([tiny.logits(theirs, part) for part in parts], axis=1)
    segments = np.repeat(np.asarray([[1, 2, 3]] * 2, np.int32), SEGMENTS, axis=1)
    positions = np.concatenate([np.arange(size, dtype=np.int32) for size in SEGMENTS])
    positions = np.stack([positions] * 2)
    params = load_params(tmp_path, config)
    difference = error(our_logits(config, params, ids, positions, segments), expected)
    record_property("family", config.model_type)
    record_property("packed", float(difference))
    assert difference < 2e-5
    assert error(our_logits(config, params, ids), expected) > 1e-2


@pytest.mark.parametrize("case", tiny.ONE_EACH.values())
def test_bfloat16_rounds_no_more_than_theirs(case, tmp_path, record_property):
    """Root mean square errors of both against the float32 logits of transformers."""
    theirs = tiny.build(**tiny.CASES[case])
    theirs.save_pretrained(tmp_path)
    rounded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager"
    )
    config = load_config(tmp_path)
    params = load_params(tmp_path, config, dtype=jnp.bfloat16)
    ids = tiny.tokens(rows=4, length=48)
    exact = tiny.logits(theirs, ids)
    logits = our_logits(config, params, ids, dtype=jnp.bfloat16)
    ours, other = (
        float(np.sqrt(np.mean(np.square(np.asarray(x) - exact))))
        for x in (logits, tiny.logits(rounded, ids))
    )
    record_property("family", config.model_type)
    record_property("bf16 error / theirs", float(ours / other))
    assert 0 < ours < 1.05 * other


def test_llama3_scaling_changes_the_logits():
    scaled = tiny.build(**tiny.CASES["llama3-rope"])
    plain = tiny.build(model_type="llama", rope_parameters={"rope_theta": 500_000.0})
    ids = tiny.tokens()
    difference = np.abs(tiny.logits(scaled, ids) - tiny.logits(plain, ids))
    assert difference.max() > 1e-2


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_bfloat16_checkpoint(model_type, tmp_path):
    theirs = tiny.build(model_type=model_type).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    config = load_config(tmp_path / "theirs")
    ids = tiny.tokens()
    params = load_params(tmp_path / "theirs", config, dtype=jnp.float32)
    # Read from disk, since a cast of the model would round its rotary buffer as well.
    expected = tiny.logits(
        AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32),
        ids,
    )
    np.testing.assert_allclose(our_logits(config, params, ids), expected, atol=1e-4)

    save_pretrained(tmp_path / "ours", config, params, dtype=jnp.bfloat16)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert back.dtype == torch.bfloat16
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def test_sharded_both_ways(tmp_path):
    theirs = tiny.build(model_type="qwen2")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    config = load_config(tmp_path / "theirs")
    params = load_params(tmp_path / "theirs", config)
    ids = tiny.tokens()
    expected = tiny.logits(theirs, ids)
    np.testing.assert_allclose(our_logits(config, params, ids), expected, atol=1e-4)

    save_pretrained(tmp_path / "ours", config, params, max_shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    np.testing.assert_array_equal(tiny.logits(back, ids), expected)


def test_long_positions_stay_close(tmp_path):
    """Rotary angles at positions in the hundreds, where float32 rounding matters."""
    theirs = tiny.build(**tiny.CASES["llama3-rope"])
    theirs.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    ids = tiny.tokens(rows=1, length=480)
    actual = our_logits(config, load_params(tmp_path, config), ids)
    np.testing.assert_allclose(actual, tiny.logits(theirs, ids), atol=2e-4)
