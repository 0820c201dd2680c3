"""Compiled programs are read as they run: loops, collectives, products, arrays."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from targetsft_jax.planning.hlo import Shape, read, shapes_in

MESH = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def _read(function, *shapes):
    local = jax.shard_map(
        function, mesh=MESH, in_specs=P(("x", "y")), out_specs=P(), check_vma=False
    )
    given = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    return read(jax.jit(local).lower(*given).compile().as_text())


def _only(program, kind):
    (found,) = [c for c in program.collectives if c.kind == kind]
    return found


# Of [64, 32] float32 over 8 devices each holds [8, 32]: 1024 bytes. Over the 4 devices
# of y, a ring sends 3 times what is held to gather it, 3/4 of it to scatter sums,
# twice that to reduce it for all, and 3/4 of it in an exchange.
@pytest.mark.parametrize(
    "kind, function, result, moved",
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
def test_each_kind_of_collective(kind, function, result, moved):
    program = _read(lambda x: jnp.sum(jnp.sin(function(x))), (64, 32))
    found = _only(program, kind)
    assert len(program.collectives) == 1
    assert found.group == (8 if kind == "collective-permute" else 4)
    assert found.bytes == found.total == moved
    assert found.trips == 1 and found.loops == ()
    assert sum(shape.bytes for shape in found.operands) == 1024
    if result:
        assert found.shapes == (Shape("f32", result),)


def test_loops_multiply_and_stand_around_what_is_in_them():
    def inner(total, row):
        return total + lax.psum(row, "y"), None

    def outer(total, rows):
        total, _ = lax.scan(inner, total, rows)
        return jnp.cos(total) * lax.pmax(jnp.sum(total), "x"), None

    def function(x):
        return lax.scan(outer, x[0, 0, 0], x[0])[0]

    program = _read(function, (8, 3, 5, 16))
    by_group = {c.group: c for c in program.collectives}
    assert sorted(by_group) == [2, 4]
    assert by_group[4].trips == 15 and len(by_group[4].loops) == 2
    assert by_group[2].trips == 3 and len(by_group[2].loops) == 1
    assert by_group[4].loops[0] == by_group[2].loops[0]
    assert by_group[4].total == 15 * by_group[4].bytes == 15 * 16 * 4 * 2 * 3 // 4
    assert program.unknown_loops == set()


def test_a_loop_of_unknown_length_is_said_and_counts_once():
    def function(x):
        often = jnp.int32(x[0, 0])
        return lax.fori_loop(0, often, lambda _, y: lax.psum(jnp.sin(y), "y"), x)

    program = _read(function, (8, 16))
    found = _only(program, "all-reduce")
    assert found.trips is None
    assert found.total == found.bytes == 16 * 4 * 2 * 3 // 4
    assert program.unknown_loops == {found.loops[0].name}


def test_products_in_loops_and_branches():
    def body(x, w):
        y = lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)
        return jnp.tanh(y), None

    def function(x, ws):
        x, _ = lax.scan(body, x, ws)
        return jnp.einsum("bd,bd->b", x, x) + (x @ ws[0])[:, 0]

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((6, 16), (5, 16, 16))
    ]
    program = read(jax.jit(function).lower(*shapes).compile().as_text())
    matrices = [dot for dot in program.dots if dot.right.dims == (16, 16)]
    assert sorted(dot.trips for dot in matrices) == [1, 5]
    assert {dot.flops for dot in matrices} == {2 * 6 * 16 * 16}
    assert all(dot.left == Shape("f32", (6, 16)) for dot in matrices)
    assert sum(dot.total for dot in matrices) == 6 * 2 * 6 * 16 * 16


def test_batched_products_and_gradients_count_all_their_axes():
    def loss(q, k):
        return jnp.sum(jnp.sin(jnp.einsum("bqhd,bkhd->bhqk", q, k)))

    q, k = (jax.ShapeDtypeStruct((2, n, 3, 8), jnp.float32) for n in (4, 5))
    program = read(jax.jit(jax.grad(loss, (0, 1))).lower(q, k).compile().as_text())
    # The scores, and a product of the same size for each operand's gradient.
    assert program.flops == 3 * 2 * (2 * 3 * 4 * 5 * 8)


def test_arrays_are_told_from_what_only_a_fusion_sees():
    def function(x):
        wide = jnp.exp(x[:, :, None] * jnp.arange(11.0))
        return jnp.sum(wide, axis=-1), jnp.sort(x)

    given = jax.ShapeDtypeStruct((7, 13), jnp.float32)
    program = read(jax.jit(function).lower(given).compile().as_text())
    wide, kept = Shape("f32", (7, 13, 11)), Shape("f32", (7, 13))
    assert kept in program.shapes(fused=False)
    assert wide in program.shapes() and wide not in program.shapes(fused=False)
    assert all(not buffer.fused for buffer in program.largest(3))
    assert program.largest(1)[0].shape == kept


# What TPU programs write in another way, cut from real ones.
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
    # The gather of the loop is counted where it starts; its trips are a constant
    # that the loop carries, and its group two axes, one of them named in part.
    assert (looped.kind, looped.trips, looped.group) == ("all-gather", 28, 8)
    assert looped.shapes == (Shape("bf16", (512, 256)),)
    assert looped.total == 28 * 7 * 64 * 256 * 2
    # A sum of which each device keeps its part moves half of what a full one moves.
    assert scattered.kind == "reduce-scatter" and scattered.group == 8
    assert scattered.shapes == (Shape("bf16", (32, 512)),)
    assert scattered.bytes == 7 * 32 * 512 * 2
    # A chain whose start is not in sight is one collective all the same.
    assert alone.kind == "all-gather" and alone.trips == 1
    (product,) = program.dots
    assert product.flops == 2 * 128 * 512 * 256
    assert product.right == Shape("bf16", (512, 256))


def test_products_that_are_convolutions_over_a_batch():
    text = """HloModule m, num_partitions=1
ENTRY %main (q: bf16[4,16,8], k: bf16[4,32,8]) -> bf16[4,16,32] {
  %q = bf16[4,16,8]{2,1,0} parameter(0)
  %k = bf16[4,32,8]{2,1,0} parameter(1)
  ROOT %scores = bf16[4,16,32]{2,1,0} convolution(%q, %k), \
window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0oi->0bf
}
"""
    # The batch is a window whose other positions fall into the holes of a dilation.
    assert read(text).flops == 4 * 2 * 16 * 32 * 8


def test_what_is_written_to_memory():
    text = """HloModule m, num_partitions=1
%update (p: f32[10,4], u: f32[1,4], i: s32[]) -> f32[10,4] {
  %p = f32[10,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %updated = f32[10,4]{1,0} dynamic-update-slice(%p, %u, %i, %i)
}
ENTRY %main (p: f32[10,4], u: f32[1,4], i: s32[]) -> f32[10,4] {
  %p.1 = f32[10,4]{1,0} parameter(0)
  %u.1 = f32[1,4]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %near = f32[1,4]{1,0:T(8,128)S(1)} negate(%u.1)
  %far = f32[1,4]{1,0:T(8,128)} negate(%near)
  ROOT %fusion = f32[10,4]{1,0} fusion(%p.1, %far, %i.1), kind=kLoop, calls=%update
}
"""
    written = {b.name: b.written for b in read(text).buffers if not b.fused}
    # Nothing for an argument or for faster memory; of an update in place its 4 numbers.
    assert written == {"p.1": 0, "u.1": 0, "i.1": 0, "near": 0, "far": 16, "fusion": 16}
    assert read(text).hbm_bytes() == 2 * 32


def test_shapes_have_sizes():
    found = shapes_in("(bf16[3,<=4]{1,0}, pred[], s4[5], f8e4m3fn[2,2], u32[])")
    assert [shape.dims for shape in found] == [(3, 4), (), (5,), (2, 2), ()]
    assert [shape.bytes for shape in found] == [24, 1, 3, 4, 4]
    assert str(found[0]) == "bf16[3,4]"


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="expected compiled.as_text"):
        read("module @jit_step { }")


def test_the_partitioner_and_its_program_agree():
    """Parameters over all devices are gathered whole in every turn of a scan."""
    place = partial(jax.NamedSharding, MESH)
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
