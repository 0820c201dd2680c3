"""Syntax of HLO text: shapes, instructions, computations."""

import pytest

from targetsft_jax.planning.hlo import Shape, read, shapes_in
from targetsft_jax.planning.hlo.parse import parse_module

TEXT = """HloModule jit_f, is_scheduled=true, replica_count=2, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(f32[] %a, f32[] %b), metadata={op_name="jit(f)/add"}
}

ENTRY %main (x: f32[4,8]) -> (f32[8], /*index=1*/f32[]) {
  %x = f32[4,8]{1,0:T(8,128)S(1)} parameter(0)
  %kernel = f32[8]{0} custom-call(%x), backend_config={"config": {"body": "",
"metadata":"{}"
}}, metadata={op_name="kernel"}
  %zero = f32[] constant(0)
  %reduced = f32[8]{0} reduce(%x, /*init=*/%zero), dimensions={0}, to_apply=%add
  ROOT %both = (f32[8]{0}, /*index=1*/f32[]) tuple(%reduced, /*index=1*/%zero)
}
"""


def test_shapes_have_sizes():
    shapes = shapes_in("(bf16[3,<=4]{1,0}, pred[], s4[5], f8e4m3fn[2,2], u32[])")
    assert [shape.dims for shape in shapes] == [(3, 4), (), (5,), (2, 2), ()]
    assert [shape.bytes for shape in shapes] == [24, 1, 3, 4, 4]
    assert str(shapes[0]) == "bf16[3,4]"


def test_a_module_has_computations_and_devices():
    module = parse_module(TEXT)
    assert module.entry == "main" and module.devices == 8
    assert list(module.computations) == ["add", "main"]
    assert module.computations["add"].root.name == "sum.1"
    # The configuration of a kernel spans lines, one of which starts with a brace.
    names = list(module.computations["main"].instructions)
    assert names == ["x", "kernel", "zero", "reduced", "both"]


def test_an_instruction_has_operands_and_attributes():
    module = parse_module(TEXT)
    main = module.computations["main"].instructions
    assert module.computations["add"].root.operands == ("a", "b")
    assert module.computations["add"].root.source == "jit(f)/add"
    assert main["x"].layouts == ("{1,0:T(8,128)S(1)}",) and main["x"].literal == "0"
    assert main["reduced"].operands == ("x", "zero")
    assert main["reduced"].computation("to_apply") == "add"
    assert main["reduced"].computation("body") == "" and main["reduced"].source == ""
    assert main["both"].shapes == (Shape("f32", (8,)), Shape("f32", ()))
    assert main["both"].layouts == ("{0}", "")


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="expected compiled.as_text"):
        read("module @jit_step { }")
