"""Execution order of a module: every instruction with its loops and their trip counts.

    for visit in execution_order(module):
        visit.instruction, visit.loops, visit.fused

XLA's cost analysis counts the body of a while loop once. Here each instruction knows
the loops that enclose it. XLA annotates a loop with `known_trip_count` on most
platforms; otherwise the count is derived from a counter that is compared with a
constant bound.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from targetsft_jax.planning.hlo.parse import (
    Computation,
    Instruction,
    Module,
    names_in,
)

_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")

# Opcodes whose result is their operand's value.
_COPIES = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start")


@dataclass(frozen=True)
class Loop:
    """A while loop.

    Attributes:
        name: of its instruction.
        trips: trip count; None if it is not known at compile time.
    """

    name: str
    trips: int | None


@dataclass(frozen=True)
class Executed:
    """An instruction where it is executed.

    Attributes:
        name: of the instruction.
        loops: enclosing while loops, outermost first.
        source: operation of the traced function that it was compiled from, or "".
    """

    name: str
    loops: tuple[Loop, ...]
    source: str

    @property
    def trips(self) -> int | None:
        """Executions per run of the program; None inside a loop of unknown count."""
        if any(loop.trips is None for loop in self.loops):
            return None
        return self.times()

    def times(self, unknown: int = 1) -> int:
        """Executions per run, with `unknown` for each loop of unknown trip count."""
        return math.prod(
            unknown if loop.trips is None else loop.trips for loop in self.loops
        )


@dataclass(frozen=True)
class Visit:
    """An instruction on the walk through a module.

    Attributes:
        computation: where it stands.
        instruction: the instruction.
        loops: enclosing while loops, outermost first.
        fused: whether it is inside a fusion.
    """

    computation: Computation
    instruction: Instruction
    loops: tuple[Loop, ...]
    fused: bool


def execution_order(module: Module) -> list[Visit]:
    """All instructions from the entry down, once for each call of their computation."""
    return list(_walk(module, module.entry, (), False))


def _walk(
    module: Module, name: str, loops: tuple[Loop, ...], fused: bool
) -> Iterator[Visit]:
    computation = module.computations.get(name)
    if computation is None:
        return
    for instruction in computation.instructions.values():
        yield Visit(computation, instruction, loops, fused)
        attributes = instruction.attributes
        if instruction.op == "while":
            trips = trip_count(module, computation, instruction)
            inner = (*loops, Loop(instruction.name, trips))
            for part in ("condition", "body"):
                yield from _walk(module, instruction.computation(part), inner, fused)
        elif instruction.op == "fusion":
            yield from _walk(module, instruction.computation("calls"), loops, True)
        elif instruction.op in ("call", "async-start"):
            for called in _CALLED.findall(attributes):
                yield from _walk(module, called, loops, fused)
        elif instruction.op == "conditional":
            branches = _BRANCHES.search(attributes)
            names = names_in(branches[1]) if branches else []
            for branch in names or _TWO_BRANCHES.findall(attributes):
                yield from _walk(module, branch, loops, fused)


def trip_count(
    module: Module, computation: Computation, loop: Instruction
) -> int | None:
    """Trip count of a while loop, or None.

    Either XLA's annotation, or ⌈(limit − start) / increment⌉ for a loop of the form
    `while (counter < limit) counter += increment` whose three numbers are constants.

    Args:
        module: the module.
        computation: the one that has the loop.
        loop: its `while` instruction.
    """
    annotation = _KNOWN_TRIP_COUNT.search(loop.attributes)
    if annotation:
        return int(annotation[1])
    condition = module.computations.get(loop.computation("condition"))
    body = module.computations.get(loop.computation("body"))
    if condition is None or body is None:
        return None
    operands = _less_than(module, condition)
    if operands is None:
        return None
    counter = _state_index(condition, operands[0])
    if counter is None:
        return None
    limit = _constant(condition, operands[1])
    carried = _state_index(condition, operands[1])
    if limit is None and carried is not None and _is_invariant(body, carried):
        limit = _initial_value(computation, loop, carried)
    start = _initial_value(computation, loop, counter)
    increment = _increment(module, body, counter)
    if start is None or limit is None or not increment:
        return None
    return max(0, -(-(limit - start) // increment))


def _less_than(module: Module, condition: Computation) -> tuple[str, ...] | None:
    """Operands, in the condition, of the comparison `a < b` that it returns."""
    root = condition.root
    if root is None:
        return None
    compare, operands = root, root.operands
    if root.op == "fusion":
        fused = module.computations[root.computation("calls")]
        if fused.root is None or fused.root.op != "compare":
            return None
        parameters = [fused.instructions[name] for name in fused.root.operands]
        if any(parameter.op != "parameter" for parameter in parameters):
            return None
        operands = tuple(root.operands[int(p.literal)] for p in parameters)
        compare = fused.root
    if compare.op != "compare" or "direction=LT" not in compare.attributes:
        return None
    return operands


def origin(computation: Computation, name: str) -> Instruction | None:
    """The instruction that computes a value, behind copies of it."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.op in _COPIES:
        if not instruction.operands:
            break
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _constant(computation: Computation, name: str) -> int | None:
    """Value of an integer constant, or None."""
    instruction = origin(computation, name)
    if instruction is None or instruction.op != "constant":
        return None
    literal = instruction.literal
    return int(literal) if re.fullmatch(r"-?\d+", literal) else None


def _state_index(computation: Computation, name: str) -> int | None:
    """Index of a value in the loop state, which is the computation's parameter."""
    instruction = origin(computation, name)
    if instruction is None or instruction.op != "get-tuple-element":
        return None
    state = computation.instructions[instruction.operands[0]]
    index = re.search(r"index=(\d+)", instruction.attributes)
    return int(index[1]) if index and state.op == "parameter" else None


def _initial_value(
    computation: Computation, loop: Instruction, index: int
) -> int | None:
    """Constant that an element of the loop state starts from, or None."""
    state = computation.instructions.get(loop.operands[0])
    if state is None or state.op != "tuple":
        return None
    return _constant(computation, state.operands[index])


def _is_invariant(body: Computation, index: int) -> bool:
    """True if the body returns an element of the loop state unchanged."""
    if body.root is None or body.root.op != "tuple":
        return False
    return _state_index(body, body.root.operands[index]) == index


def _increment(module: Module, body: Computation, index: int) -> int | None:
    """Constant that the body adds to an element of the loop state, or None."""
    if body.root is None or body.root.op != "tuple":
        return None
    update = origin(body, body.root.operands[index])
    if update is None:
        return None
    if update.op == "fusion":
        fused = module.computations[update.computation("calls")]
        if fused.root is None or fused.root.op != "add":
            return None
        terms = [fused.instructions[name] for name in fused.root.operands]
        constants = [_constant(fused, term.name) for term in terms]
        constants += [
            _constant(body, update.operands[int(term.literal)])
            for term in terms
            if term.op == "parameter"
        ]
    elif update.op == "add":
        constants = [_constant(body, name) for name in update.operands]
    else:
        return None
    known = [constant for constant in constants if constant is not None]
    return known[0] if len(known) == 1 else None
