"""Attention kernels on a mesh: equal to the portable path on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import decoder, kernels
from targetsft_jax.models import sharded_attention as attention
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import make_mesh

CONFIG = DecoderConfig(
    vocab_size=32,
    hidden_size=64,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=1,
    head_dim=64,
)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_a_kernel_on_a_mesh_equals_the_portable_path(sizes, monkeypatch):
    mesh = make_mesh(*sizes)
    interpreted = kernels.Kernel(
        functools.partial(kernels.splash, interpret=True),
        ("cpu",),
        kernels.KERNELS["splash"].limits,
    )
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "splash": interpreted})
    attend = attention.mesh_attend("splash", CONFIG, mesh, 128, jnp.float32)
    assert attend is not None
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 32, (8, 128)).astype(np.int32)
    segments = np.repeat([[1, 2], [1, 0]], [40, 88], axis=1)[np.arange(8) % 2]
    params = decoder.init_params(CONFIG, jax.random.key(0))

    def run(params, attend):
        hidden = decoder.apply(
            CONFIG,
            params,
            tokens,
            segment_ids=jnp.asarray(segments, jnp.int32),
            attend=attend,
        )
        return jnp.sum(jnp.sin(hidden) * (segments > 0)[..., None])

    def pulled(attend):
        return jax.jit(jax.value_and_grad(lambda p: run(p, attend)))(params)

    (actual, gradients), (value, expected) = pulled(attend), pulled(None)
    np.testing.assert_allclose(actual, value, rtol=1e-5)
    for left, right in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected)):
        scale = float(jnp.abs(right).max())
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-5 * scale)


def test_windows_caps_and_scales_reach_a_kernel_on_a_mesh(monkeypatch):
    """Alternating layers: each device runs one of two kernels on its heads."""
    config = dataclasses.replace(
        CONFIG,
        num_layers=3,
        query_pre_attn_scalar=5,
        attn_logit_softcap=0.5,
        sliding_window=3,
        sliding_layers=(True, False, True),
    )
    seen = []

    def kernel(*arrays, **how):
        seen.append((arrays[0].shape, how))
        return kernels.xla(*arrays, **how)

    stand_in = kernels.Kernel(kernel, ("cpu",), kernels.KERNELS["splash"].limits)
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "splash": stand_in})
    mesh = make_mesh(2, 2, 2)
    attend = attention.mesh_attend("splash", config, mesh, 128, jnp.float32)
    tokens = np.random.default_rng(0).integers(0, 32, (8, 128)).astype(np.int32)
    params = jax.tree.map(
        lambda x: 3 * x, decoder.init_params(config, jax.random.key(0))
    )

    def run(config, attend):
        apply = functools.partial(decoder.apply, config, attend=attend)
        return jax.jit(apply)(params, tokens)

    actual = run(config, attend)
    np.testing.assert_allclose(actual, run(config, None), atol=1e-4)
    how = {"scale": 5**-0.5, "softcap": 0.5}
    expected = [((2, 128, 2, 64), {"window": window, **how}) for window in (3, None)]
    assert all(x in seen for x in expected) and all(x in expected for x in seen)
    plain = dataclasses.replace(config, attn_logit_softcap=None)
    assert np.abs(actual - run(plain, None)).max() > 1e-2


def test_auto_on_this_mesh_is_the_blockwise_kernel():
    """Also where heads do not divide over the devices: the partitioner splits it."""
    mesh = make_mesh(1, 1, 8)
    attend = attention.mesh_attend("auto", CONFIG, mesh, 128, jnp.float32)
    assert attend is kernels.blockwise
    assert attention.mesh_attend("xla", CONFIG, mesh, 128, jnp.float32) is None
    with pytest.raises(ValueError, match="devices are cpu"):
        attention.mesh_attend("splash", CONFIG, mesh, 128, jnp.float32)
