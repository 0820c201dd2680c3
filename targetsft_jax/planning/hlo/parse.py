"""Parse HLO text: computations, instructions, array shapes.

    module = parse_module(compiled.as_text())
    module.computations[module.entry].instructions["fusion.3"].shapes

Syntax only: names, opcodes, operands and attributes. The semantics is in the other
modules of this package.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property

_SHAPE = re.compile(r"\b(pred|[a-z]+\d\w*)\[((?:<?=?\d+,?)*)\]")
_SHAPE_AND_LAYOUT = re.compile(_SHAPE.pattern + r"(\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Shape:
    """Shape of an array.

    Attributes:
        dtype: XLA element type, such as "bf16".
        dims: sizes of the dimensions.
    """

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return math.ceil(self.size * _bits(self.dtype) / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def _bits(dtype: str) -> int:
    """Return the bits per element; 0 for types without a width, such as "token"."""
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def shapes_in(text: str) -> tuple[Shape, ...]:
    """Return the array shapes in HLO text, in order."""
    return tuple(
        Shape(dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(text)
    )


@dataclass(frozen=True)
class Instruction:
    """One HLO instruction: `%name = type opcode(operands), attributes`.

    Attributes:
        name: without "%".
        op: opcode, such as "all-gather-start".
        type: result type as written, with layouts.
        operands: names of the operands.
        literal: text between the parentheses, such as a constant's value or a
            parameter's number.
        attributes: everything after the operands.
    """

    name: str
    op: str
    type: str
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the results; several for a tuple."""
        return shapes_in(self.type)

    @cached_property
    def layouts(self) -> tuple[str, ...]:
        """Layout of each result, with braces; "" if the type has none."""
        return tuple(match[3] or "" for match in _SHAPE_AND_LAYOUT.finditer(self.type))

    @cached_property
    def source(self) -> str:
        """Operation of the traced function (`metadata={op_name=…}`), or ""."""
        match = _OP_NAME.search(self.attributes)
        return match[1] if match else ""

    def computation(self, attribute: str) -> str:
        """Return the name of the computation in `attribute=%name`, or ""."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""


@dataclass
class Computation:
    """A named sequence of instructions with one root.

    Attributes:
        name: without "%".
        instructions: name -> instruction, in the order of the text.
        root: instruction whose value is returned.
    """

    name: str
    instructions: dict[str, Instruction]
    root: Instruction | None = None


@dataclass
class Module:
    """A compiled HLO module.

    Attributes:
        entry: name of the entry computation.
        devices: replicas × partitions.
        computations: name -> computation.
    """

    entry: str
    devices: int
    computations: dict[str, Computation]


def parse_module(text: str) -> Module:
    """Parse `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, devices = "", 1
    current: Computation | None = None
    for line in text.splitlines():
        if line.startswith("HloModule"):
            counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", line)
            devices = math.prod(map(int, counts))
        # Exactly "}": a kernel's configuration has lines such as "}}, …".
        elif line.rstrip() == "}":
            current = None
        elif current is None:
            head = _COMPUTATION.match(line)
            if head:
                current = Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        else:
            instruction = _parse_instruction(line)
            if instruction is not None:
                current.instructions[instruction.name] = instruction
                if line.lstrip().startswith("ROOT "):
                    current.root = instruction
    if not entry:
        raise ValueError(
            "the text is not a compiled HLO module; expected compiled.as_text()"
        )
    return Module(entry, devices, computations)


def _parse_instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    if rest.startswith("("):
        end = _after_parenthesis(rest, 0)
    else:
        end = rest.index(" ") if " " in rest else len(rest)
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        return None
    close = _after_parenthesis(rest, opcode.end() - 1)
    literal = _COMMENT.sub("", rest[opcode.end() : close - 1])
    # A type may precede an operand; only names start with "%".
    operands = tuple(_NAME.findall(literal))
    return Instruction(
        head[2], opcode[1], rest[:end], operands, literal.strip(), rest[close:]
    )


def _after_parenthesis(text: str, start: int) -> int:
    """Return the position after the parenthesis matching that at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return start + match.end()
    return len(text)


def names_in(text: str) -> list[str]:
    """Return the names that follow a "%" in HLO text."""
    return _NAME.findall(text)
