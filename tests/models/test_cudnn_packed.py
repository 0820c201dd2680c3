"""cuDNN over packed rows: offsets by hand, refusals, and parity where a GPU is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import cudnn_packed as module
from targetsft_jax.models import kernels
from targetsft_jax.models.cudnn_packed import cudnn_packed, segment_offsets


def test_offsets_and_lengths_of_segments():
    ids = jnp.array(
        [[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8, [1, 2, 3, 4, 5, 6, 7, 8]], jnp.int32
    )
    offsets, lengths, count = segment_offsets(ids, 3)
    assert offsets[0].tolist() == [0, 3, 5, -1]
    assert lengths[0].tolist() == [3, 2, 3]
    assert offsets[1].tolist() == [0, -1, -1, -1]
    assert lengths[1].tolist() == [8, -1, -1]
    assert count.tolist() == [3, 1, 8]


def test_auto_never_chooses_it():
    config = kernels.DecoderConfig(
        **dict(vocab_size=8, hidden_size=128, intermediate_size=8, num_layers=1),
        **dict(num_heads=2, num_kv_heads=1, head_dim=64),
    )
    arguments = ("gpu", config, 128, jnp.bfloat16)
    assert kernels.choose("auto", *arguments) == "cudnn"
    assert kernels.choose("cudnn_packed", *arguments) == "cudnn_packed"


def _arrays(heads=4, kv_heads=2, length=256):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, length, n, 64) for n in (heads, kv_heads, kv_heads, heads)]
    arrays = [jax.random.normal(*pair, jnp.bfloat16) for pair in zip(keys, shapes)]
    # Examples of 100, 60 and 56 tokens and padding; one example.
    ids = np.ones((2, length), np.int32)
    ids[0] = np.repeat([1, 2, 3, 0], [100, 60, 56, length - 216])
    return arrays, jnp.array(ids)


def test_other_gpus_and_versions_are_refused(monkeypatch):
    (query, key, value, _), ids = _arrays()
    with pytest.raises(ValueError, match="neither windows nor soft caps"):
        cudnn_packed(query, key, value, ids, window=8)
    if jax.default_backend() != "gpu":
        with pytest.raises(ValueError, match="capability 9.0 .* 'cudnn'"):
            cudnn_packed(query, key, value, ids)
    monkeypatch.setattr(module.jax, "__version__", "0.13.1")
    with pytest.raises(ValueError, match=r"0.10 to 0.12, and this is jax 0.13.1"):
        cudnn_packed(query, key, value, ids)


def _has_hopper() -> bool:
    if jax.default_backend() != "gpu":
        return False
    major, minor = jax.devices()[0].compute_capability.split(".")
    return (int(major), int(minor)) >= (9, 0)


@pytest.mark.skipif(not _has_hopper(), reason="needs a Hopper or later GPU with cuDNN")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_equal_the_portable_attention(kv_heads):
    (query, key, value, weights), ids = _arrays(kv_heads=kv_heads)

    def outputs(attend, dtype):
        arrays = [x.astype(dtype) for x in (query, key, value)]

        def loss(*arrays):
            out = attend(*arrays, ids)
            return (out * weights.astype(dtype)).astype(jnp.float32).sum(), out

        grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arrays)
        return out, *grads

    expected = outputs(kernels.xla, jnp.float32)
    for ours, exact in zip(outputs(cudnn_packed, jnp.bfloat16), expected):
        error = np.abs(np.asarray(ours, np.float32) - np.asarray(exact))
        assert error.max() < 0.02 * np.abs(exact).max()


@pytest.mark.skipif(not _has_hopper(), reason="needs a Hopper or later GPU with cuDNN")
def test_a_row_of_too_many_segments_is_nan():
    (query, key, value, _), ids = _arrays()
    ids = ids.at[1].set(jnp.arange(ids.shape[1]))
    out = np.asarray(jax.jit(cudnn_packed)(query, key, value, ids), np.float32)
    assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()
