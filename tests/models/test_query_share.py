"""Attention of rows whose tokens are shared by devices: equal to whole rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.quick import quicker

from targetsft_jax.models import decoder, kernels
from targetsft_jax.models import sharded_attention as attention
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.splash import splash_share
from targetsft_jax.parallel.mesh import make_mesh, put_rows, tokens_over
from targetsft_jax.parallel.zigzag import zigzag_slots

LENGTH = 512
# Gemma's form: layers with and without a window alternate; scores are capped.
CONFIG = DecoderConfig(
    vocab_size=32,
    hidden_size=64,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    attn_logit_softcap=0.5,
    sliding_window=70,
    sliding_layers=(True, False),
)
PLAIN = dataclasses.replace(
    CONFIG, attn_logit_softcap=None, sliding_window=None, sliding_layers=None
)


def _batch():
    """Segments across all borders of chunks, one as long as the row, and padding."""
    ends = ((100, 400, 512), (512,), (40, 300), (512,))
    segments = np.zeros((4, LENGTH), np.int32)
    positions = np.zeros((4, LENGTH), np.int32)
    for row, stops in enumerate(ends):
        for number, (start, end) in enumerate(zip((0, *stops), stops), 1):
            segments[row, start:end] = number
            positions[row, start:end] = np.arange(end - start)
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, 32, (4, LENGTH)).astype(np.int32),
        "segment_ids": segments,
        "positions": positions,
        "probe": rng.normal(size=(4, LENGTH)).astype(np.float32),
    }


@functools.lru_cache
def _pulled(config, sizes=None, context=1, kernel="xla"):
    """Value and gradients of a decoder; of whole rows on one device by default."""
    mesh = make_mesh(*sizes or (1, 1, 1), _devices(sizes, context), context=context)
    attend = attention.mesh_attend(kernel, config, mesh, LENGTH, jnp.float32)
    assert (attend is None) == (sizes is None)
    params = jax.tree.map(
        lambda x: 3 * x, decoder.init_params(config, jax.random.key(0))
    )

    def value(params, batch):
        tokens, probe = batch["tokens"], batch["probe"]
        hidden = decoder.apply(
            config,
            params,
            tokens,
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            attend=attend,
            constrain=lambda x: jax.lax.with_sharding_constraint(x, tokens_over(mesh)),
        )
        real = batch["segment_ids"] > 0
        return jnp.sum(jnp.sin(hidden) * jnp.where(real, probe, 0)[..., None])

    batch = put_rows(_batch(), mesh)
    return jax.device_get(
        jax.jit(jax.value_and_grad(value), compiler_options=quicker())(params, batch)
    )


def _devices(sizes, context):
    return jax.devices()[: context * int(np.prod(sizes or (1, 1, 1)))]


def _assert_equal(actual, expected):
    # A sum of terms of both signs: the rounding of 4 * 512 * 64 terms of size 1/2.
    rounding = 4 * LENGTH * CONFIG.hidden_size / 2 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=rounding)
    leaves = jax.tree_util.tree_leaves_with_path(actual[1])
    for (path, left), right in zip(leaves, jax.tree.leaves(expected[1])):
        scale = float(np.abs(right).max())
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(left, right, rtol=0, atol=3e-5 * scale, err_msg=name)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "config, sizes, context",
    [
        (CONFIG, (2, 1, 2), 2),
        (PLAIN, (1, 2, 1), 2),
        (PLAIN, (1, 1, 2), 4),
        (CONFIG, (1, 1, 1), 4),
    ],
    ids=["windows 2", "plain 2", "plain 4", "windows 4"],
)
def test_shared_rows_equal_whole_rows(config, sizes, context):
    _assert_equal(_pulled(config, sizes, context), _pulled(config))


@pytest.fixture
def interpreted(monkeypatch):
    """Splash attention, interpreted on the CPU."""
    splash = kernels.KERNELS["splash"]
    stand_in = kernels.Kernel(
        functools.partial(splash.attend, interpret=True),
        ("cpu",),
        splash.limits,
        functools.partial(splash_share, interpret=True),
    )
    monkeypatch.setattr(kernels, "KERNELS", {**kernels.KERNELS, "splash": stand_in})


@pytest.mark.sweep(1)
@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["windows", "plain"])
def test_splash_attention_of_shared_rows_equals_the_portable_one(config, interpreted):
    """Its mask is of the slots: each device skips other blocks."""
    shared = _pulled.__wrapped__(config, (1, 1, 2), 2, "splash")
    _assert_equal(shared, _pulled(config))


def test_devices_compute_the_same_number_of_blocks_of_splash_attention():
    """Of 36 causal blocks of 512 tokens; without the zig-zag, 3 on the first device."""
    mesh = make_mesh(1, 1, 1, context=4, devices=jax.devices()[:4])

    def blocks(slots):
        share = splash_share(slots, mesh, 2)
        mask = np.asarray(share.tables.fwd_mask_info.block_mask)
        return (mask[0].reshape(4, -1) > 0).sum(axis=1).tolist()

    assert blocks(zigzag_slots(4096, 4)) == [9, 9, 9, 9]
    assert blocks(np.arange(4096)) == [3, 7, 11, 15]


def test_kernels_that_need_whole_rows_are_refused_by_name():
    def choose(name, platform, length=1024, context=4, **changes):
        config = dataclasses.replace(PLAIN, **changes)
        return kernels.choose(name, platform, config, length, jnp.bfloat16, context)

    for name in ("cudnn", "pallas_gpu"):
        with pytest.raises(ValueError, match=f"{name}.*mesh.context is 4.*'xla'"):
            choose(name, "gpu")
    assert choose("auto", "gpu") == "xla"
    assert choose("auto", "gpu", context=1) == "cudnn"
    assert choose("auto", "tpu") == "splash"
    # Chunks of 64 tokens are too short for splash attention.
    assert choose("auto", "tpu", length=512) == "xla"
    with pytest.raises(ValueError, match=r"2 x mesh.context parts.*64 is not a mult"):
        choose("splash", "tpu", length=512)


def test_meshes_that_cannot_share_are_refused():
    def attend(length, *sizes, context):
        mesh = make_mesh(*sizes, context=context)
        return attention.mesh_attend("auto", PLAIN, mesh, length, jnp.float32)

    with pytest.raises(ValueError, match="expected a multiple of 2 x mesh.context = 8"):
        attend(LENGTH + 4, 2, 1, 1, context=4)
    with pytest.raises(ValueError, match="heads do not.*; change mesh.tensor$"):
        attention.mesh_attend(
            "auto",
            dataclasses.replace(PLAIN, num_heads=2, num_kv_heads=1),
            make_mesh(1, 1, 4, context=2),
            LENGTH,
            jnp.float32,
        )
