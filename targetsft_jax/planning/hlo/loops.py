"""Walk a module in execution order: instructions, enclosing loops, trip counts.

    for visit in execution_order(module):
        visit.instruction, visit.loops, visit.fused

XLA's cost analysis counts the body of a while loop once; here each instruction has its
enclosing loops. A trip count is XLA's annotation `known_trip_count`, present on most
platforms, or is derived from a counter that is compared with a constant bound.
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
        name: name of the `while` instruction.
        trips: trip count; None if unknown at compile time.
    """

    name: str
    trips: int | None


@dataclass(frozen=True)
class Executed:
    """An instruction with its enclosing loops.

    Attributes:
        name: name of the instruction.
        loops: enclosing while loops, outermost first.
        source: operation in the traced function, or "".
    """

    name: str
    loops: tuple[Loop, ...]
    source: str

    @property
    def trips(self) -> int | None:
        """Executions per run; None inside a loop of unknown trip count."""
        if any(loop.trips is None for loop in self.loops):
            return None
        return self.times()

    def times(self, unknown: int = 1) -> int:
        """Return the executions per run; `unknown` replaces unknown trip counts."""
        return math.prod(
            unknown if loop.trips is None else loop.trips for loop in self.loops
        )


@dataclass(frozen=True)
class Visit:
    """An instruction visited on the walk through a module.

    Attributes:
        computation: computation of the instruction.
        instruction: visited instruction.
        loops: enclosing while loops, outermost first.
        fused: True inside a fusion.
    """

    computation: Computation
    instruction: Instruction
    loops: tuple[Loop, ...]
    fused: bool


def execution_order(module: Module) -> list[Visit]:
    """List all instructions from the entry, once per call of their computation."""
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
    """Return the trip count of a while loop; None if unknown.

    XLA's annotation, or ⌈(limit − start) / increment⌉ for a loop
    `while (counter < limit) counter += increment` with constants.

    Args:
        module: parsed module.
        computation: computation of the loop.
        loop: `while` instruction.
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
    """Return the operands of `a < b` if that is the condition's result, else None."""
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
    """Return the instruction that computes a value, skipping copies."""
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.op in _COPIES:
        if not instruction.operands:
            break
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _constant(computation: Computation, name: str) -> int | None:
    """Return the value of an integer constant, or None."""
    instruction = origin(computation, name)
    if instruction is None or instruction.op != "constant":
        return None
    literal = instruction.literal
    return int(literal) if re.fullmatch(r"-?\d+", literal) else None


def _state_index(computation: Computation, name: str) -> int | None:
    """Return the index of a value in the loop state (the parameter), or None."""
    instruction = origin(computation, name)
    if instruction is None or instruction.op != "get-tuple-element":
        return None
    state = computation.instructions[instruction.operands[0]]
    index = re.search(r"index=(\d+)", instruction.attributes)
    return int(index[1]) if index and state.op == "parameter" else None


def _initial_value(
    computation: Computation, loop: Instruction, index: int
) -> int | None:
    """Return the constant initial value of an element of the loop state, or None."""
    state = computation.instructions.get(loop.operands[0])
    if state is None or state.op != "tuple":
        return None
    return _constant(computation, state.operands[index])


def _is_invariant(body: Computation, index: int) -> bool:
    """Return whether the body leaves an element of the loop state unchanged."""
    if body.root is None or body.root.op != "tuple":
        return False
    return _state_index(body, body.root.operands[index]) == index


def _increment(module: Module, body: Computation, index: int) -> int | None:
    """Return the constant increment of an element of the loop state, or None."""
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
