"""A compiled program's text: its collectives, its products, its arrays, its loops.

    program = read(compiled.as_text())
    [c for c in program.collectives if c.kind == "all-gather" and c.loops]
    assert not any(shape.dims == (tokens, vocabulary) for shape in program.shapes())

XLA's own cost analysis counts the body of a loop once, and a text search counts an
asynchronous collective as often as it is cut into pieces. Here everything is visited
as it is executed, from the entry down: what stands in a loop knows that loop, and how
often it runs. The text is of one device of an SPMD program, on CPU, TPU or GPU.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Shape:
    """An array: its dtype as XLA writes it ("bf16"), and its dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        return math.ceil(self.size * _bits(self.dtype) / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class Loop:
    """A loop: the name of its instruction, and how often it runs; None if unknown."""

    name: str
    trips: int | None


@dataclass(frozen=True)
class Placed:
    """Something in the program, and where it stands.

    Attributes:
        name: of its instruction.
        loops: the loops around it, the outermost first.
        source: the operation of the traced function that it came from, or "".
    """

    name: str
    loops: tuple[Loop, ...]
    source: str

    @property
    def trips(self) -> int | None:
        """How often a step executes it; None where a loop's count is not known."""
        counts = [loop.trips for loop in self.loops]
        return None if None in counts else math.prod(counts)  # type: ignore[arg-type]

    def times(self, unknown: int = 1) -> int:
        """The same, with a number for each loop of unknown length."""
        return math.prod(
            unknown if loop.trips is None else loop.trips for loop in self.loops
        )


@dataclass(frozen=True)
class Collective(Placed):
    """A collective; asynchronous ones are one, though the program has two parts.

    Attributes:
        kind: one of `KINDS`.
        shapes: its results; several where collectives were combined.
        operands: what goes in.
        group: devices that take part with one another.
    """

    kind: str
    shapes: tuple[Shape, ...]
    operands: tuple[Shape, ...]
    group: int

    @property
    def bytes(self) -> int:
        """What a device sends each time, over a ring of its group."""
        given = sum(shape.bytes for shape in self.operands)
        others = self.group - 1
        if self.kind == "collective-permute":
            return given
        if self.kind == "all-gather":
            return given * others
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * given * others // self.group

    @property
    def total(self) -> int:
        """What a device sends in the whole program; an unknown loop counts once."""
        return self.bytes * self.times()


@dataclass(frozen=True)
class Dot(Placed):
    """A product of matrices, also where XLA has made it a convolution.

    Attributes:
        shape: the result.
        left, right: the operands.
        flops: multiplications and additions, each time.
    """

    shape: Shape
    left: Shape
    right: Shape
    flops: int

    @property
    def total(self) -> int:
        """In the whole program; an unknown loop counts once."""
        return self.flops * self.times()


@dataclass(frozen=True)
class Buffer(Placed):
    """An array that an instruction makes.

    Attributes:
        shape: of the array.
        op: the instruction's operation.
        fused: it exists only inside a fusion, which may never hold it whole.
        written: bytes of it that are written to HBM each time: none where it lies in
            faster memory or is another array, and of an update in place the update.
    """

    shape: Shape
    op: str
    fused: bool
    written: int


@dataclass(frozen=True)
class Program:
    """What `read` found.

    Attributes:
        collectives, dots, buffers: in the order of execution.
    """

    collectives: tuple[Collective, ...]
    dots: tuple[Dot, ...]
    buffers: tuple[Buffer, ...]

    def shapes(self, fused: bool = True) -> set[Shape]:
        """Every array shape that the program names; `fused` ones too."""
        return {b.shape for b in self.buffers if fused or not b.fused}

    def largest(self, count: int) -> list[Buffer]:
        """The largest arrays outside fusions, one for each shape and source."""
        made = [b for b in self.buffers if not b.fused and b.op not in _NOT_MADE]
        distinct = {(b.shape, b.source): b for b in reversed(made)}
        return sorted(distinct.values(), key=lambda b: -b.shape.bytes)[:count]

    @property
    def flops(self) -> int:
        """Of all products; kernels are opaque and not counted."""
        return sum(dot.total for dot in self.dots)

    def hbm_bytes(self, unknown: int = 1) -> int:
        """About what a device reads and writes: all that is made, once each way.

        Arguments and what is read more than once are left out, so it is too little;
        padding of small arrays too.
        """
        return 2 * sum(b.written * b.times(unknown) for b in self.buffers)

    @property
    def unknown_loops(self) -> set[str]:
        """Loops of unknown length around collectives or products: counted once."""
        placed = (*self.collectives, *self.dots)
        return {loop.name for p in placed for loop in p.loops if loop.trips is None}


def read(text: str) -> Program:
    """The program in `compiled.as_text()`.

    Raises:
        ValueError: the text is no compiled HLO module.
    """
    module = _parse(text)
    visits = list(_visits(module, module.entry, (), False))
    buffers = tuple(
        Buffer(i.name, loops, i.source, shape, i.op, fused, 0 if fused else written)
        for _, i, loops, fused in visits
        for shape, written in zip(i.shapes, _written(module, i))
    )
    dots = tuple(
        dot
        for c, i, loops, _ in visits
        if i.op in ("dot", "convolution")
        for dot in [_dot(c, i, loops)]
    )
    return Program(tuple(_collectives(module, visits)), dots, buffers)


def shapes_in(text: str) -> tuple[Shape, ...]:
    """The array shapes that a type, or any text, names."""
    return tuple(
        Shape(dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(text)
    )


_SHAPE = re.compile(r"\b(pred|[a-z]+\d\w*)\[((?:<?=?\d+,?)*)\]")
_SHAPE_AND_LAYOUT = re.compile(_SHAPE.pattern + r"(\{[^}]*\})?")
_SPACE = re.compile(r"S\([1-9]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OP = re.compile(r" ?([a-z][\w\-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")

# Operations whose result is some other instruction's array.
_NOT_MADE = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "call")
_NOT_MADE += ("opt-barrier", "conditional", "constant", "async-done", "copy-done")
# Through these a value passes unchanged.
_COPIES = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start")


@dataclass(frozen=True)
class _Instruction:
    name: str
    op: str
    type: str
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        return shapes_in(self.type)

    @cached_property
    def source(self) -> str:
        found = _SOURCE.search(self.attributes)
        return found[1] if found else ""

    def computation(self, role: str) -> str:
        """The name in `role=%name`."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclass
class _Computation:
    name: str
    instructions: dict[str, _Instruction]
    root: _Instruction | None = None


@dataclass
class _Module:
    entry: str
    devices: int
    computations: dict[str, _Computation]


_Visit = tuple[_Computation, _Instruction, tuple[Loop, ...], bool]


def _parse(text: str) -> _Module:
    computations: dict[str, _Computation] = {}
    entry, current, devices = "", None, 1
    for line in text.splitlines():
        if line.startswith("HloModule"):
            counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", line)
            devices = math.prod(map(int, counts))
        elif line.rstrip() == "}":  # Kernels have lines that only begin so.
            current = None
        elif current is None:
            head = _HEAD.match(line)
            if head:
                current = _Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        else:
            made = _instruction(line)
            if made is not None:
                current.instructions[made.name] = made
                if line.lstrip().startswith("ROOT "):
                    current.root = made
    if not entry:
        raise ValueError("no compiled HLO module; expected compiled.as_text()")
    return _Module(entry, devices, computations)


def _instruction(line: str) -> _Instruction | None:
    head = _LINE.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    if rest.startswith("("):
        end = _close(rest, 0)
    else:
        end = rest.index(" ") if " " in rest else len(rest)
    op = _OP.match(rest, end)
    if op is None:
        return None
    close = _close(rest, op.end() - 1)
    inside = _COMMENT.sub("", rest[op.end() : close - 1])
    # Where a type stands before an operand, its name is still the one after a "%".
    operands = tuple(_NAME.findall(inside))
    return _Instruction(
        head[2], op[1], rest[:end], operands, inside.strip(), rest[close:]
    )


def _close(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.end()
    return len(text)


def _visits(
    module: _Module, name: str, loops: tuple[Loop, ...], fused: bool
) -> Iterator[_Visit]:
    """Every instruction that is executed, with its loops, as often as it is called."""
    computation = module.computations.get(name)
    if computation is None:
        return
    for i in computation.instructions.values():
        yield computation, i, loops, fused
        if i.op == "while":
            inner = (*loops, Loop(i.name, _trips(module, computation, i)))
            yield from _visits(module, i.computation("condition"), inner, fused)
            yield from _visits(module, i.computation("body"), inner, fused)
        elif i.op == "fusion":
            yield from _visits(module, i.computation("calls"), loops, True)
        elif i.op in ("call", "async-start"):
            for called in _CALLED.findall(i.attributes):
                yield from _visits(module, called, loops, fused)
        elif i.op == "conditional":
            branches = _BRANCHES.findall(i.attributes)
            names = _NAME.findall(branches[0]) if branches else []
            for branch in names or _TWO_BRANCHES.findall(i.attributes):
                yield from _visits(module, branch, loops, fused)


def _written(module: _Module, i: _Instruction) -> list[int]:
    """Bytes that an instruction writes to HBM, for each of its results."""
    allocates = 'custom_call_target="AllocateBuffer"' in i.attributes
    if (
        i.op in _NOT_MADE
        and i.op != "copy-done"
        or i.op.endswith("-start")
        or allocates
    ):
        return [0] * len(i.shapes)
    layouts = [found[3] or "" for found in _SHAPE_AND_LAYOUT.finditer(i.type)]
    sizes = [
        0 if _SPACE.search(layout) else shape.bytes
        for shape, layout in zip(i.shapes, layouts)
    ]
    aliased = re.search(r"output_to_operand_aliasing=\{(.*?\)) ?\}", i.attributes)
    if aliased:
        for index in re.findall(r"\{(\d*)\}: \(", aliased[1]):
            sizes[int(index or 0)] = 0
    called = module.computations.get(i.computation("calls"))
    if i.op == "fusion" and called is not None and called.root is not None:
        root = called.root
        results = root.operands if root.op == "tuple" else (root.name,)
        for index, name in enumerate(results[: len(sizes)]):
            made = _follow(called, name)
            if made is not None and made.op == "dynamic-update-slice" and sizes[index]:
                sizes[index] = called.instructions[made.operands[1]].shapes[0].bytes
    elif i.op == "dynamic-update-slice" and sizes[0]:
        sizes[0] = 0  # A rare one outside a fusion: its update was written as such.
    return sizes


def _collectives(module: _Module, visits: list[_Visit]) -> Iterator[Collective]:
    """Each collective once, however many pieces TPU fusions have cut it into."""
    owners = {i.computation("calls"): i for _, i, _, _ in visits if i.op == "fusion"}
    pieces: dict[tuple, Collective] = {}
    started = set()
    for computation, i, loops, _ in visits:
        kind = i.op.removesuffix("-start")
        if kind not in KINDS:
            continue
        operands = tuple(
            shape for n in i.operands for shape in computation.instructions[n].shapes
        )
        shapes = i.shapes
        if i.op != kind and len(shapes) > len(operands):
            # A start has its operands, its results and perhaps its state.
            shapes = shapes[len(operands) : 2 * len(operands)]
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind, shapes = "reduce-scatter", owners[computation.name].shapes
        group = _group(i, module.devices)
        made = Collective(i.name, loops, i.source, kind, shapes, operands, group)
        begins, piece = _asynchronous(computation, i)
        key = (kind, loops, _channel(i), shapes)
        if begins:
            started.add(key)
        if begins or not piece:
            yield made
        else:
            pieces.setdefault(key, made)
    # A chain whose start is not in sight is still one collective.
    yield from (made for key, made in pieces.items() if key not in started)


def _asynchronous(computation: _Computation, i: _Instruction) -> tuple[bool, bool]:
    """Does a collective begin, or is it a piece of, a chain of TPU fusions?

    Such a chain repeats the instruction in the fusion that starts it, in each that
    moves it on while it computes something else, and in the one that ends it.
    """
    marks = [
        other
        for other in computation.instructions.values()
        if other.op == "custom-call" and "AsyncCollective" in other.attributes
    ]
    begins = any(
        "AsyncCollectiveStart" in mark.attributes and i.name in mark.operands
        for mark in marks
    )
    named = computation.name.startswith("async_collective_fusion")
    return begins, bool(marks) or named


def _channel(i: _Instruction) -> str:
    found = re.search(r"channel_id=(\d+)", i.attributes)
    return found[1] if found else ""


def _group(i: _Instruction, devices: int) -> int:
    """How many devices talk to one another."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", i.attributes)
    if pairs:
        return pairs[1].count("{")
    # Three spellings: {{0,1},{2,3}}, [groups,size]<=[...], mesh['x'=2,...] {'x'}.
    lists = re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes)
    if lists:
        return lists[1].count(",") + 1
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes)
    if iota:
        return int(iota[1])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", i.attributes)
    if named:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        # Part of an axis is written 'x':(before)size.
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in used)
    return devices


def _dot(computation: _Computation, i: _Instruction, loops: tuple[Loop, ...]) -> Dot:
    left, right = (computation.instructions[n].shapes[0] for n in i.operands[:2])
    (shape,) = i.shapes[:1]
    flops = _dot_flops if i.op == "dot" else _convolution_flops
    count = flops(i.attributes, shape, left, right)
    return Dot(i.name, loops, i.source, shape, left, right, count)


def _dot_flops(attributes: str, shape: Shape, left: Shape, right: Shape) -> int:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    axes = [int(n) for n in found[1].split(",") if n] if found else []
    return 2 * shape.size * math.prod(left.dims[axis] for axis in axes)


def _convolution_flops(attributes: str, shape: Shape, left: Shape, right: Shape) -> int:
    """Products that meet numbers: neither padding nor the holes of a dilation."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0
    sizes = [
        dict(zip(names, dims.dims))
        for names, dims in zip(labels.groups(), (left, right, shape))
    ]
    given, kernel, made = sizes
    flops = 2 * made["b"] * made["f"] * kernel["i"]
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(part.split("=") for part in (window[1].split() if window else ()))
    spatial = sorted(name for name in kernel if name.isdigit())
    for axis, name in enumerate(spatial):
        flops *= _meetings(
            given[name], kernel[name], made[name], _window(settings, axis)
        )
    return flops


def _window(settings: dict[str, str], axis: int) -> dict[str, int]:
    def value(key: str, usual: str) -> str:
        return settings[key].split("x")[axis] if key in settings else usual

    return {
        "stride": int(value("stride", "1")),
        "low": int(value("pad", "0_0").split("_")[0]),
        "holes": int(value("lhs_dilate", "1")),
        "step": int(value("rhs_dilate", "1")),
    }


def _meetings(given: int, kernel: int, made: int, window: dict[str, int]) -> int:
    """Pairs of an output and a kernel position that read an element of the input."""
    reach, count = (given - 1) * window["holes"], 0
    for offset in range(0, kernel * window["step"], window["step"]):
        first = offset - window["low"]
        stride, holes = window["stride"], window["holes"]
        if holes == 1:
            # Positions first + k·stride in [0, reach], k in [0, made).
            lowest = max(0, -(first // stride))
            highest = min(made - 1, (reach - first) // stride)
            count += max(0, highest - lowest + 1)
        else:
            places = range(first, first + made * stride, stride)
            count += sum(0 <= p <= reach and p % holes == 0 for p in places)
    return count


def _trips(
    module: _Module, computation: _Computation, loop: _Instruction
) -> int | None:
    """How often a loop runs: as XLA says, or from a counter up to a constant."""
    said = _TRIPS.search(loop.attributes)
    if said:
        return int(said[1])
    condition = module.computations.get(loop.computation("condition"))
    body = module.computations.get(loop.computation("body"))
    if condition is None or body is None or condition.root is None:
        return None
    test, names = condition.root, condition.root.operands
    if test.op == "fusion":
        inner = module.computations[test.computation("calls")]
        if inner.root is None or inner.root.op != "compare":
            return None
        numbers = [inner.instructions[n] for n in inner.root.operands]
        if any(n.op != "parameter" for n in numbers):
            return None
        names = tuple(test.operands[int(n.literal)] for n in numbers)
        test = inner.root
    if test.op != "compare" or "direction=LT" not in test.attributes:
        return None
    counter = _element(condition, names[0])
    if counter is None:
        return None
    limit = _constant(condition, names[1])
    carried = _element(condition, names[1])
    if limit is None and carried is not None and _unchanged(body, carried):
        limit = _given(computation, loop, carried)
    start, step = _given(computation, loop, counter), _step(module, body, counter)
    if start is None or limit is None or not step:
        return None
    return max(0, -(-(limit - start) // step))


def _follow(computation: _Computation, name: str) -> _Instruction | None:
    """The instruction that a value comes from, through copies."""
    found = computation.instructions.get(name)
    while found is not None and found.op in _COPIES and found.operands:
        found = computation.instructions.get(found.operands[0])
    return found


def _constant(computation: _Computation, name: str) -> int | None:
    found = _follow(computation, name)
    if found is None or found.op != "constant":
        return None
    return int(found.literal) if re.fullmatch(r"-?\d+", found.literal) else None


def _element(computation: _Computation, name: str) -> int | None:
    """Which element of the loop's state a value is."""
    found = _follow(computation, name)
    if found is None or found.op != "get-tuple-element":
        return None
    origin = computation.instructions[found.operands[0]]
    index = re.search(r"index=(\d+)", found.attributes)
    return int(index[1]) if index and origin.op == "parameter" else None


def _given(computation: _Computation, loop: _Instruction, element: int) -> int | None:
    """The constant that a loop's state starts with."""
    state = computation.instructions.get(loop.operands[0])
    if state is None or state.op != "tuple":
        return None
    return _constant(computation, state.operands[element])


def _unchanged(body: _Computation, element: int) -> bool:
    if body.root is None or body.root.op != "tuple":
        return False
    return _element(body, body.root.operands[element]) == element


def _step(module: _Module, body: _Computation, element: int) -> int | None:
    """The constant that a loop adds to an element of its state."""
    if body.root is None or body.root.op != "tuple":
        return None
    added = _follow(body, body.root.operands[element])
    if added is None:
        return None
    names = added.operands
    if added.op == "fusion":
        inner = module.computations[added.computation("calls")]
        if inner.root is None or inner.root.op != "add":
            return None
        parts = [inner.instructions[n] for n in inner.root.operands]
        constants = [_constant(inner, p.name) for p in parts]
        constants += [
            _constant(body, names[int(p.literal)]) for p in parts if p.op == "parameter"
        ]
    elif added.op == "add":
        constants = [_constant(body, n) for n in names]
    else:
        return None
    known = [c for c in constants if c is not None]
    return known[0] if len(known) == 1 else None


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0
