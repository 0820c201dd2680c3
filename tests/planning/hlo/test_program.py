"""Complete programs: spellings of TPU programs, output of the partitioner."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from targetsft_jax.planning.hlo import Shape, read

# Excerpts of compiled TPU programs.
TPU = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[]{:T(256)} parameter(0)
  %b = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%a, %b)
}

%begin (p: bf16[64,256]) -> (bf16[64,256], bf16[512,256], u32[]) {
  %p = bf16[64,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[512,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1':(1)4}, dimensions={0}
  ROOT %start = (bf16[64,256]{1,0}, bf16[512,256]{1,0}, u32[]{:S(2)}) \
custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.5 (q: bf16[64,256], l: bf16[128,256], r: bf16[512,256]) -> \
bf16[128,512] {
  %q = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %l = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)
  %r = bf16[512,256]{1,0:T(8,128)(2,1)} parameter(2)
  %all-gather.2 = bf16[512,256]{1,0:T(8,128)(2,1)} all-gather(%q), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1':(1)4}, dimensions={0}
  ROOT %product = bf16[128,512]{1,0:T(8,128)(2,1)} convolution(%l, %r), \
dim_labels=bf_oi->bf
}

%all-reduce-scatter.1 (x: bf16[256,512]) -> bf16[32,512] {
  %x = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = u32[] constant(0)
  %all-reduce.1 = bf16[256,512]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=1, \
replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = bf16[32,512]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), \
dynamic_slice_sizes={32,512}
}

%body (s: (s32[], bf16[64,256], s32[])) -> (s32[], bf16[64,256], s32[]) {
  %s = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}, s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=2
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %w = bf16[64,256]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %kernel = f32[8]{0} custom-call(), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config": {"body": "",
"xprof_metadata":"{}"
}}, metadata={op_name="kernel"}
  %begun = (bf16[64,256]{1,0}, bf16[512,256]{1,0}, u32[]{:S(2)}) fusion(%w), \
kind=kCustom, calls=%begin
  ROOT %after = (s32[]{:T(128)}, bf16[64,256]{1,0}, /*index=2*/s32[]) \
tuple(%next, %w, /*index=2*/%n)
}

%condition (c: (s32[], bf16[64,256], s32[])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}, s32[]) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%c), index=0
  %end = s32[] get-tuple-element(%c), index=2
  ROOT %less = pred[]{:T(512)} compare(%at, %end), direction=LT
}

ENTRY %main (w: bf16[64,256], g: bf16[256,512], l: bf16[128,256]) -> bf16[32,512] {
  %w.1 = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="w"}
  %g = bf16[256,512]{1,0:T(8,128)(2,1)} parameter(1)
  %l.1 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(2)
  %zero.1 = s32[] constant(0)
  %copied = s32[]{:T(128)} copy(%zero.1)
  %limit = s32[] constant(28)
  %state = (s32[]{:T(128)}, bf16[64,256]{1,0}, s32[]) tuple(%copied, %w.1, %limit)
  %while.1 = (s32[]{:T(128)}, bf16[64,256]{1,0}, s32[]) while(%state), \
condition=%condition, body=%body
  %r.1 = bf16[512,256]{1,0} broadcast(%w.1), dimensions={0,1}
  %fusion.9 = bf16[128,512]{1,0} fusion(%w.1, %l.1, %r.1), kind=kCustom, \
calls=%async_collective_fusion.5
  ROOT %scattered = bf16[32,512]{1,0} fusion(%g), kind=kCustom, \
calls=%all-reduce-scatter.1
}
"""


def test_tpu_spellings():
    program = read(TPU)
    looped, scattered, alone = program.collectives
    # The gather in the loop is counted at its start. The trip count is a constant in
    # the loop state; the group has two axes, one of them split.
    assert (looped.kind, looped.trips, looped.group) == ("all-gather", 28, 8)
    assert looped.shapes == (Shape("bf16", (512, 256)),)
    assert looped.total == 28 * 7 * 64 * 256 * 2
    # A reduce-scatter sends half of what an all-reduce sends.
    assert scattered.kind == "reduce-scatter" and scattered.group == 8
    assert scattered.shapes == (Shape("bf16", (32, 512)),)
    assert scattered.bytes == 7 * 32 * 512 * 2
    # A chain without a visited start is also one collective.
    assert alone.kind == "all-gather" and alone.trips == 1
    (product,) = program.dots
    assert product.flops == 2 * 128 * 512 * 256
    assert product.right == Shape("bf16", (512, 256))


def test_a_scan_gathers_its_parameters_in_every_iteration(mesh):
    """Parameters sharded over all devices."""
    place = partial(jax.NamedSharding, mesh)
    rows = place(P(("x", "y")))

    def function(x, ws):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws[:, :, :16])[0]

    over = place(P(None, ("x", "y")))
    ws = jax.ShapeDtypeStruct((3, 16, 64), jnp.float32, sharding=over)
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=rows)
    compiled = jax.jit(function, out_shardings=rows).lower(x, ws).compile()
    program = read(compiled.as_text())
    gathers = [c for c in program.collectives if c.kind == "all-gather"]
    assert sum(c.trips * c.shapes[0].size for c in gathers) == 3 * 16 * 16
    assert program.flops == 3 * 2 * 1 * 16 * 16
