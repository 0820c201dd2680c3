"""Arrays of compiled programs and the bytes that they write to HBM."""

import jax
import jax.numpy as jnp

from targetsft_jax.planning.hlo import Shape, read


def test_arrays_inside_fusions_are_distinguished():
    def function(x):
        wide = jnp.exp(x[:, :, None] * jnp.arange(11.0))
        return jnp.sum(wide, axis=-1), jnp.sort(x)

    x = jax.ShapeDtypeStruct((7, 13), jnp.float32)
    program = read(jax.jit(function).lower(x).compile().as_text())
    wide, input_shape = Shape("f32", (7, 13, 11)), Shape("f32", (7, 13))
    assert input_shape in program.shapes(fused=False)
    assert wide in program.shapes() and wide not in program.shapes(fused=False)
    assert all(not buffer.fused for buffer in program.largest(3))
    assert program.largest(1)[0].shape == input_shape


def test_bytes_written_to_hbm():
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
    # Arguments and faster memory write nothing, the in-place update its 4 numbers.
    assert written == {"p.1": 0, "u.1": 0, "i.1": 0, "near": 0, "far": 16, "fusion": 16}
    assert read(text).hbm_bytes() == 2 * 32
