"""Gradients that are reduced in stages: equal, and with fewer bytes on a TPU torus."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import gradient_rings, rules
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.hlo import read

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    qkv_bias=True,
)


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2)])
def test_gradients_are_equal(shape):
    mesh = make_mesh(*shape)
    params = decoder.init_params(CONFIG, jax.random.key(0))
    axes = decoder.logical_axes(CONFIG)
    params = jax.device_put(params, rules.shardings(axes, params, mesh))
    tokens = jax.random.randint(jax.random.key(1), (8, 16), 0, 64)
    tokens = jax.device_put(tokens, NamedSharding(mesh, P("fsdp")))
    staged = gradient_rings.reduce_in_stages(axes["layers"], mesh, 2, jnp.float32)

    def gradients(read):
        def loss(params):
            hidden = decoder.apply(CONFIG, params, tokens, remat="full", read=read)
            return jnp.sum(jnp.sin(hidden))

        return jax.jit(jax.grad(loss))(params)

    expected, actual = gradients(None), gradients(staged)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "coordinates, size",
    [
        ([(x, y) for x in range(4) for y in range(4)], 4),
        ([(x, 0) for x in range(8)], 8),
        ([(0, 0), (1, 1)], 1),
    ],
)
def test_a_ring_is_a_line_of_the_torus(coordinates, size):
    devices = [SimpleNamespace(coords=each) for each in coordinates]
    grid = np.asarray(devices, object).reshape(1, -1, 1, 1)
    assert gradient_rings.ring_size(SimpleNamespace(devices=grid)) == size


def test_other_platforms_need_no_help():
    axes = decoder.logical_axes(CONFIG)["layers"]
    mesh = make_mesh(1, 8, 1)
    assert gradient_rings.reduce_along_rings(axes, mesh, jnp.float32) is None


@pytest.mark.slow
@pytest.mark.libtpu
def test_kernels_are_reduce_scattered_over_a_torus():
    """On v5e:8x8; the compiler alone sends twice the bytes for them."""
    from targetsft_jax.planning.topology import get_topology

    mesh = make_mesh(1, -1, 1, get_topology("v5e:8x8").devices)
    config = DecoderConfig(
        vocab_size=128,
        # Smaller kernels are gathered by all-reduces, which this test would count.
        hidden_size=3584,
        intermediate_size=14336,
        num_layers=2,
        num_heads=8,
        num_kv_heads=8,
        head_dim=128,
    )
    shapes = decoder.abstract_params(config)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        rules.shardings(decoder.logical_axes(config), shapes, mesh),
    )
    rows = NamedSharding(mesh, P("fsdp"))
    tokens = jax.ShapeDtypeStruct((64, 128), jnp.int32, sharding=rows)

    def bytes_of_gradients(read_params):
        def loss(params, tokens):
            hidden = decoder.apply(
                config,
                params,
                tokens,
                dtype=jnp.bfloat16,
                remat="full",
                constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
                read=read_params,
            )
            return jnp.sum(hidden.astype(jnp.float32))

        compiled = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
        program = read(compiled.as_text())
        kinds = ("all-reduce", "reduce-scatter")
        in_layers = [c for c in program.collectives if c.loops and c.kind in kinds]
        return sum(c.bytes * c.times() for c in in_layers)

    axes = decoder.logical_axes(config)["layers"]
    staged = gradient_rings.reduce_along_rings(axes, mesh, jnp.bfloat16)
    assert staged is not None
    assert bytes_of_gradients(staged) < 0.7 * bytes_of_gradients(None)
