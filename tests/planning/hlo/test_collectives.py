"""Collectives of compiled programs: kind, group, bytes sent over a ring."""

import jax.numpy as jnp
import pytest
from jax import lax

from targetsft_jax.planning.hlo import Shape


# Each of 8 devices has [8, 32] float32: 1024 bytes. A ring over the 4 devices of y
# sends 3 times that in an all-gather, 3/4 of it in a reduce-scatter or an all-to-all,
# and twice 3/4 in an all-reduce.
@pytest.mark.parametrize(
    "kind, function, result, sent",
    [
        ("all-gather", lambda x: lax.all_gather(x, "y", tiled=True), (32, 32), 3072),
        (
            "reduce-scatter",
            lambda x: lax.psum_scatter(x, "y", tiled=True),
            (2, 32),
            768,
        ),
        ("all-reduce", lambda x: lax.psum(x, "y"), (8, 32), 1536),
        ("all-to-all", lambda x: lax.all_to_all(x, "y", 0, 1, tiled=True), None, 768),
        (
            "collective-permute",
            lambda x: lax.ppermute(x, "y", [(i, (i + 1) % 4) for i in range(4)]),
            (8, 32),
            1024,
        ),
    ],
)
def test_each_kind_of_collective(kind, function, result, sent, compile_local):
    program = compile_local(lambda x: jnp.sum(jnp.sin(function(x))), (64, 32))
    (collective,) = program.collectives
    assert collective.kind == kind
    assert collective.group == (8 if kind == "collective-permute" else 4)
    assert collective.bytes == collective.total == sent
    assert collective.trips == 1 and collective.loops == ()
    assert sum(shape.bytes for shape in collective.operands) == 1024
    if result:
        assert collective.shapes == (Shape("f32", result),)
