"""Loops of compiled programs: nesting and trip counts."""

import jax.numpy as jnp
import pytest
from jax import lax

from targetsft_jax.planning.hlo import read


def test_trip_counts_of_nested_loops_multiply(compile_local):
    def inner(total, row):
        return total + lax.psum(row, "y"), None

    def outer(total, rows):
        total, _ = lax.scan(inner, total, rows)
        return jnp.cos(total) * lax.pmax(jnp.sum(total), "x"), None

    def function(x):
        return lax.scan(outer, x[0, 0, 0], x[0])[0]

    program = compile_local(function, (8, 3, 5, 16))
    by_group = {c.group: c for c in program.collectives}
    assert sorted(by_group) == [2, 4]
    assert by_group[4].trips == 15 and len(by_group[4].loops) == 2
    assert by_group[2].trips == 3 and len(by_group[2].loops) == 1
    assert by_group[4].loops[0] == by_group[2].loops[0]
    assert by_group[4].total == 15 * by_group[4].bytes == 15 * 16 * 4 * 2 * 3 // 4
    assert program.unknown_loops == set()


def test_a_loop_of_unknown_trip_count_counts_once_and_is_listed(compile_local):
    def function(x):
        count = jnp.int32(x[0, 0])
        return lax.fori_loop(0, count, lambda _, y: lax.psum(jnp.sin(y), "y"), x)

    program = compile_local(function, (8, 16))
    (collective,) = program.collectives
    assert collective.kind == "all-reduce"
    assert collective.trips is None
    assert collective.total == collective.bytes == 16 * 4 * 2 * 3 // 4
    assert program.unknown_loops == {collective.loops[0].name}


# A loop whose comparison and increment are inside fusions, without XLA's annotation.
FUSED = """HloModule m, num_partitions=1

%less (c: s32[], n: s32[]) -> pred[] {{
  %c = s32[] parameter(0)
  %n = s32[] parameter(1)
  ROOT %compared = pred[] compare(%c, %n), direction={direction}
}}

%advance (c: s32[]) -> s32[] {{
  %c.1 = s32[] parameter(0)
  %by = s32[] constant({increment})
  ROOT %added = s32[] add(%c.1, %by)
}}

%condition (s: (s32[], f32[4,4])) -> pred[] {{
  %s = (s32[], f32[4,4]) parameter(0)
  %at = s32[] get-tuple-element(%s), index=0
  %end = s32[] constant(20)
  ROOT %test = pred[] fusion(%at, %end), kind=kLoop, calls=%less
}}

%body (t: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {{
  %t = (s32[], f32[4,4]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4,4] get-tuple-element(%t), index=1
  %next = s32[] fusion(%i), kind=kLoop, calls=%advance
  %y = f32[4,4] dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %after = (s32[], f32[4,4]) tuple(%next, %y)
}}

ENTRY %main (m: f32[4,4]) -> (s32[], f32[4,4]) {{
  %m = f32[4,4] parameter(0)
  %start = s32[] constant(2)
  %state = (s32[], f32[4,4]) tuple(%start, %m)
  ROOT %loop = (s32[], f32[4,4]) while(%state), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
    "direction, increment, trips",
    [("LT", 1, 18), ("LT", 4, 5), ("LT", 0, None), ("GT", 1, None)],
)
def test_trip_counts_follow_from_constants(direction, increment, trips):
    """`for (i = 2; i < 20; i += increment)`; other comparisons are not derived."""
    program = read(FUSED.format(direction=direction, increment=increment))
    (product,) = program.dots
    assert product.trips == trips
    assert product.times(unknown=7) == (trips or 7)
    assert program.unknown_loops == (set() if trips else {"loop"})


def test_both_branches_of_a_conditional_are_visited():
    text = """HloModule m, num_partitions=1

%yes (a: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4] parameter(0)
  ROOT %p = f32[4,4] dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%no (b: f32[4,4]) -> f32[4,4] {
  ROOT %b = f32[4,4] parameter(0)
}

ENTRY %main (c: pred[], x: f32[4,4]) -> f32[4,4] {
  %c = pred[] parameter(0)
  %x = f32[4,4] parameter(1)
  ROOT %r = f32[4,4] conditional(%c, %x, %x), BRANCHES
}
"""
    two = "true_computation=%yes, false_computation=%no"
    for branches in (two, "branch_computations={%no, %yes}"):
        names = [b.name for b in read(text.replace("BRANCHES", branches)).buffers]
        assert sorted(names) == ["a", "b", "c", "p", "r", "x"]
