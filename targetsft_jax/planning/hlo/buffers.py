"""Arrays of a compiled program and the bytes that they write to HBM."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targetsft_jax.planning.hlo.loops import Executed, Visit, origin
from targetsft_jax.planning.hlo.parse import Computation, Instruction, Module, Shape

# Opcodes whose result aliases another instruction's array.
ALIASES = (
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "call",
    "opt-barrier",
    "conditional",
    "constant",
    "async-done",
    "copy-done",
)
# A layout with a memory space other than HBM, such as S(1), a TPU's vector memory.
_MEMORY_SPACE = re.compile(r"S\([1-9]")
_ALIASING = re.compile(r"output_to_operand_aliasing=\{(.*?\)) ?\}")


@dataclass(frozen=True)
class Buffer(Executed):
    """Result of an instruction; one for each element of a tuple.

    Attributes:
        shape: shape of the array.
        op: opcode of the instruction.
        fused: True inside a fusion, where the array need not be materialised.
        written: bytes written to HBM per execution: 0 for a fused array, an alias or
            an array in faster memory; for an in-place update the size of the update.
    """

    shape: Shape
    op: str
    fused: bool
    written: int


def buffers(module: Module, visits: Sequence[Visit]) -> Iterator[Buffer]:
    """Yield the results of all instructions in the order of execution."""
    for visit in visits:
        instruction = visit.instruction
        written = _bytes_written(module, instruction)
        for shape, count in zip(instruction.shapes, written):
            yield Buffer(
                instruction.name,
                visit.loops,
                instruction.source,
                shape,
                instruction.op,
                visit.fused,
                0 if visit.fused else count,
            )


def _bytes_written(module: Module, instruction: Instruction) -> list[int]:
    """Return the bytes written to HBM per result of an instruction outside fusions."""
    op, attributes = instruction.op, instruction.attributes
    # A copy is counted at its copy-done, not at its copy-start.
    if (
        (op in ALIASES and op != "copy-done")
        or op.endswith("-start")
        or 'custom_call_target="AllocateBuffer"' in attributes
    ):
        return [0] * len(instruction.shapes)
    sizes = [
        0 if _MEMORY_SPACE.search(layout) else shape.bytes
        for shape, layout in zip(instruction.shapes, instruction.layouts)
    ]
    aliasing = _ALIASING.search(attributes)
    if aliasing:
        for index in re.findall(r"\{(\d*)\}: \(", aliasing[1]):
            sizes[int(index or 0)] = 0
    if op == "fusion":
        computation = module.computations.get(instruction.computation("calls"))
        if computation is not None:
            _count_updates_only(computation, sizes)
    elif op == "dynamic-update-slice" and sizes[0]:
        # The update is counted at the instruction that computes it.
        sizes[0] = 0
    return sizes


def _count_updates_only(fusion: Computation, sizes: list[int]) -> None:
    """Replace the size of an in-place update by the size of the updated slice."""
    root = fusion.root
    if root is None:
        return
    results = root.operands if root.op == "tuple" else (root.name,)
    for index, name in enumerate(results[: len(sizes)]):
        instruction = origin(fusion, name)
        if (
            instruction is not None
            and instruction.op == "dynamic-update-slice"
            and sizes[index]
        ):
            update = fusion.instructions[instruction.operands[1]]
            sizes[index] = update.shapes[0].bytes
