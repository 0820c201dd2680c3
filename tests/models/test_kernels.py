"""Attention kernels: packed rows against separate segments, and limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import kernels
from targetsft_jax.models.config import DecoderConfig

LENGTH, SIZE = 256, 64
# Ends of the segments of two rows; the first row ends in padding.
ENDS = ((37, 128, 250), (200, 201, 256))
RUNNABLE = {
    "xla": kernels.xla,
    # Two blocks of queries; the first of them ends within a segment.
    "blockwise": kernels.blockwise,
    "splash": functools.partial(kernels.splash, interpret=True),
    "pallas_gpu": functools.partial(kernels.pallas_gpu, interpret=True),
}


def _segments():
    rows = np.zeros((len(ENDS), LENGTH), np.int32)
    for row, ends in zip(rows, ENDS):
        for number, (start, end) in enumerate(zip((0, *ends), ends), 1):
            row[start:end] = number
    return jnp.asarray(rows)


def _inputs(heads, kv_heads, dtype):
    rng = np.random.default_rng(heads)

    def array(count):
        return jnp.asarray(rng.normal(size=(len(ENDS), LENGTH, count, SIZE)), dtype)

    return array(heads), array(kv_heads), array(kv_heads), array(heads)


def _alone(query, key, value, window=None, scale=SIZE**-0.5, softcap=None):
    """Causal attention in numpy, without segments: the oracle."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (jnp.repeat(x, repeat, axis=1) for x in (key, value))
    scores = jnp.einsum("qhd,khd->hqk", query, key) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    behind = np.subtract.outer(*[np.arange(len(query))] * 2)
    seen = (behind >= 0) & (behind < (window or len(query)))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    return jnp.einsum("hqk,khd->qhd", weights, value)


def _assert_packed_equals_separate(attend, heads, kv_heads, dtype, tolerance, **how):
    """Output and gradients of query, key and value, at real tokens."""
    query, key, value, probe = _inputs(heads, kv_heads, dtype)
    segments = _segments()
    real = (segments > 0)[..., None, None]

    def packed(*qkv):
        out = attend(*qkv, segments, **how).astype(jnp.float32)
        return jnp.sum(jnp.where(real, out * probe, 0)), out

    def separate(*qkv):
        wide = [x.astype(jnp.float32) for x in qkv]
        rows = []
        for row, ends in enumerate(ENDS):
            parts = [
                _alone(*(x[row, start:end] for x in wide), **how)
                for start, end in zip((0, *ends), ends)
            ]
            rest = jnp.zeros((LENGTH - ends[-1], heads, SIZE))
            rows.append(jnp.concatenate([*parts, rest]))
        out = jnp.stack(rows)
        return jnp.sum(out * probe), out

    def pulled(function):
        return jax.jit(jax.grad(function, (0, 1, 2), has_aux=True))(query, key, value)

    gradients, out = pulled(packed)
    separate_gradients, separate_out = pulled(separate)
    out = jnp.where(real, out, 0)
    for actual, expected in zip((out, *gradients), (separate_out, *separate_gradients)):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(
            np.asarray(actual, np.float32),
            np.asarray(expected, np.float32),
            rtol=0,
            atol=tolerance * scale,
        )


@pytest.mark.sweep(2)
@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 1), (7, 1)])
@pytest.mark.parametrize("name", RUNNABLE)
def test_packed_equals_separate(name, heads, kv_heads):
    _assert_packed_equals_separate(
        RUNNABLE[name], heads, kv_heads, jnp.float32, tolerance=2e-5
    )


# A window over two blocks of the kernel; a cap that affects scores of size 4; and both
# at once, with a window longer than some segments and shorter than others.
HOWS = {
    "window": {"window": 150},
    "cap": {"softcap": 3.0, "scale": 0.5},
    "all": {"window": 50, "softcap": 3.0, "scale": 0.5},
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize("name", ["xla", "blockwise", "splash"])
def test_packed_equals_separate_with_windows_caps_and_scales(name, how):
    _assert_packed_equals_separate(
        RUNNABLE[name], 4, 2, jnp.float32, tolerance=2e-5, **how
    )


def test_a_scale_for_the_gpu_kernel():
    _assert_packed_equals_separate(
        RUNNABLE["pallas_gpu"], 4, 2, jnp.float32, tolerance=2e-5, scale=0.3
    )


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["xla", "blockwise", "splash"])
def test_packed_equals_separate_in_bfloat16(name):
    """Inputs are exact in bfloat16; the kernel rounds its factors to 2^-8."""
    _assert_packed_equals_separate(RUNNABLE[name], 4, 2, jnp.bfloat16, tolerance=2e-2)


@pytest.mark.parametrize("ignored", ["window", "softcap", "scale"])
def test_a_kernel_that_ignores_an_option_fails_the_same_test(ignored):
    def ignores(*arrays, **how):
        return kernels.xla(*arrays, **{**how, ignored: None})

    with pytest.raises(AssertionError):
        _assert_packed_equals_separate(
            ignores, 2, 2, jnp.float32, tolerance=2e-5, **HOWS["all"]
        )


def test_a_kernel_that_ignores_segments_fails_the_same_test():
    def ignores(query, key, value, segment_ids):
        return kernels.xla(query, key, value, jnp.ones_like(segment_ids))

    with pytest.raises(AssertionError):
        _assert_packed_equals_separate(ignores, 2, 2, jnp.float32, tolerance=2e-5)


@pytest.mark.parametrize(
    "name, platform, how",
    [
        ("splash", "tpu", {}),
        ("splash", "tpu", HOWS["all"]),
        ("pallas_gpu", "cuda", {"scale": 0.3}),
        ("xla", "cuda", HOWS["all"]),
    ],
)
def test_forward_and_backward_lower_for_their_platform(name, platform, how):
    query, key, value, _ = _inputs(4, 2, jnp.bfloat16)
    attend = kernels.KERNELS[name].attend

    def loss(query, key, value):
        return attend(query, key, value, _segments(), **how).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(query, key, value)
    try:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    except RuntimeError as error:
        # From jax 0.12 on, Pallas needs to know which GPU it lowers for.
        if "No supported GPU" not in str(error):
            raise
        pytest.skip("this jax lowers Pallas GPU kernels only with a GPU")
    assert ("custom_call" in text) == (name != "xla")


def _config(**changes):
    sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 64}
    return DecoderConfig(
        **sizes | {"num_layers": 1, "num_heads": 4, "num_kv_heads": 2} | changes
    )


def test_auto_is_the_fastest_kernel_that_supports_the_model():
    def chosen(platform, dtype=jnp.bfloat16, length=256, **changes):
        return kernels.choose("auto", platform, _config(**changes), length, dtype)

    assert chosen("cpu") == "blockwise"
    assert chosen("cpu", sliding_window=16, attn_logit_softcap=5.0) == "blockwise"
    assert kernels.choose("auto", "cpu", _config(), 256, jnp.float32, 2) == "xla"
    assert chosen("tpu") == "splash"
    assert chosen("tpu", length=200) == "xla"
    assert chosen("tpu", head_dim=80) == "xla"
    assert chosen("tpu", sliding_window=16, attn_logit_softcap=5.0) == "splash"
    assert chosen("gpu", sliding_window=16) == "xla"
    assert chosen("gpu", sliding_window=256) == "cudnn"  # as long as a row
    assert chosen("gpu", attn_logit_softcap=5.0) == "xla"
    assert chosen("gpu", query_pre_attn_scalar=5.0) == "cudnn"
    assert chosen("gpu") == "cudnn"
    assert chosen("gpu", dtype=jnp.float32) == "pallas_gpu"
    assert chosen("gpu", dtype=jnp.float32, head_dim=80) == "xla"


@pytest.mark.parametrize("name", ["cudnn", "pallas_gpu"])
@pytest.mark.parametrize(
    "changes, limit",
    [({"sliding_window": 16}, "window.*16"), ({"attn_logit_softcap": 5.0}, "cap.*5.0")],
)
def test_models_with_windows_or_caps_are_refused_by_name(name, changes, limit):
    with pytest.raises(ValueError, match=f"{name}.*{limit}.*'xla'"):
        kernels.choose(name, "gpu", _config(**changes), 256, jnp.bfloat16)


@pytest.mark.parametrize("name", ["cudnn", "pallas_gpu"])
@pytest.mark.parametrize("option", [{"window": 16}, {"softcap": 5.0}])
def test_kernels_without_windows_and_caps_refuse_them(name, option):
    attend = kernels.KERNELS[name].attend
    with pytest.raises(ValueError, match=f"{name} has neither windows nor soft caps"):
        attend(*_inputs(2, 2, jnp.bfloat16)[:3], _segments(), **option)


@pytest.mark.parametrize(
    "name, platform, dtype, length, expected",
    [
        ("splash", "cpu", "bfloat16", 256, ("devices are cpu", "'blockwise'")),
        ("blockwise", "tpu", "bfloat16", 256, ("devices are tpu", "'splash'")),
        ("splash", "tpu", "bfloat16", 200, ("sequence length 200", "128", "'xla'")),
        ("cudnn", "gpu", "float32", 256, ("not float32", "'pallas_gpu'")),
        ("pallas_gpu", "tpu", "bfloat16", 256, ("devices are tpu", "'splash'")),
        ("flash", "tpu", "bfloat16", 256, ("'flash'", "splash, cudnn")),
    ],
)
def test_an_unsupported_kernel_is_refused_by_name(
    name, platform, dtype, length, expected
):
    with pytest.raises(ValueError) as caught:
        kernels.choose(name, platform, _config(), length, jnp.dtype(dtype))
    for part in expected:
        assert part in str(caught.value)


def test_key_heads_are_repeated_until_devices_can_share_them():
    config = _config(num_heads=12, num_kv_heads=2, head_dim=64)
    assert [kernels.kv_repeats(config, n) for n in (1, 2, 4, 6, 12)] == [1, 1, 2, 3, 6]
    with pytest.raises(ValueError, match="12 attention heads.*mesh.tensor = 8"):
        kernels.kv_repeats(config, 8)
