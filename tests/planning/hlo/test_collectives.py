"""Collectives of compiled programs: kind, group, bytes sent over a ring."""

import jax.numpy as jnp
import pytest
from jax import lax

from targetsft_jax.planning.hlo import Shape, read


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


@pytest.mark.parametrize(
    "kind, function, sent, between",
    [
        # All 8 devices, 4 in each of two nodes, with 1024 bytes: what a node reduced,
        # a quarter per device, goes to the other node.
        ("all-reduce", lambda x: lax.psum(x, ("x", "y")), 1792, 2 * 1024 / 4 / 2),
        ("all-gather", lambda x: lax.all_gather(x, ("x", "y"), tiled=True), 7168, 1024),
        ("all-gather", lambda x: lax.all_gather(x, "y", tiled=True), 3072, 0),
        ("all-reduce", lambda x: lax.psum(x, "x"), 1024, 1024),
        ("collective-permute", lambda x: lax.ppermute(x, "x", [(0, 1)]), 1024, 1024),
        ("collective-permute", lambda x: lax.ppermute(x, "y", [(0, 1)]), 1024, 0),
    ],
)
def test_what_leaves_a_node(kind, function, sent, between, compile_local):
    def summed(x):
        return jnp.sum(jnp.sin(function(x)))

    program = compile_local(summed, (64, 32), nodes=[0] * 4 + [1] * 4)
    (collective,) = program.collectives
    assert (collective.kind, collective.bytes) == (kind, sent)
    assert collective.dcn_bytes == between
    assert compile_local(summed, (64, 32)).collectives[0].dcn_bytes == 0


# Excerpt of a program compiled for four TPU slices.
SLICES = """HloModule jit_step, is_scheduled=true, num_partitions=4

ENTRY %main (g: f32[16,8,128]) -> f32[16,8,128] {
  %g = f32[16,8,128]{2,1,0:T(8,128)} parameter(0)
  %after-all.1 = token[] after-all()
  %send.1 = (f32[16,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%g, %after-all.1), \
channel_id=4, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_reduce_operation="SUM",\
_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="TYPE"}
  %send-done.1 = token[] send-done(%send.1), channel_id=4, is_host_transfer=true
  %recv.1 = (f32[16,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%after-all.1), \
channel_id=3, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="TYPE"}
  %recv-done.1 = (f32[16,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv.1)
  ROOT %r = f32[16,8,128]{2,1,0:T(8,128)} get-tuple-element(%recv-done.1), index=0
}
"""


@pytest.mark.parametrize(
    "transfer, kind, sent",
    [
        ("ALL_REDUCE", "all-reduce", 2 * 65536 * 3 // 4),
        ("REDUCE_SCATTER", "reduce-scatter", 65536 * 3 // 4),
        ("ALL_GATHER", "all-gather", 65536 * 3),
        ("ONE_TO_ONE", "collective-permute", 65536),
    ],
)
def test_transfers_between_tpu_slices(transfer, kind, sent):
    (collective,) = read(SLICES.replace("TYPE", transfer)).collectives
    assert (collective.kind, collective.group, collective.slices) == (kind, 4, 4)
    assert collective.bytes == collective.dcn_bytes == sent


def test_an_unknown_transfer_between_slices_is_an_error():
    with pytest.raises(ValueError, match="type 'NEW', which is unknown; expected"):
        read(SLICES.replace("TYPE", "NEW"))
