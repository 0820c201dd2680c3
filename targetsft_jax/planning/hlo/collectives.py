"""Collectives of a compiled program: kind, operands, group size, bytes sent.

An asynchronous collective has several instructions: start and done, or on TPUs a chain
of fusions that each repeat it. It is counted once, at its start.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targetsft_jax.planning.hlo.loops import Executed, Loop, Visit
from targetsft_jax.planning.hlo.parse import Computation, Instruction, Module, Shape

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Collective(Executed):
    """A collective operation.

    Attributes:
        kind: one of `KINDS`.
        shapes: shapes of the results; several if XLA combined collectives.
        operands: shapes of the operands, on one device.
        group: number of devices in a replica group.
    """

    kind: str
    shapes: tuple[Shape, ...]
    operands: tuple[Shape, ...]
    group: int

    @property
    def bytes(self) -> int:
        """Bytes sent per device per execution.

        Ring algorithms over n devices with operands of B bytes:
        all-gather (n − 1) B, reduce-scatter and all-to-all (n − 1) B / n, all-reduce
        2 (n − 1) B / n, collective-permute B.
        """
        operands = sum(shape.bytes for shape in self.operands)
        if self.kind == "collective-permute":
            return operands
        others = self.group - 1
        if self.kind == "all-gather":
            return operands * others
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * operands * others // self.group

    @property
    def total(self) -> int:
        """Bytes sent per run; a loop of unknown trip count counts once."""
        return self.bytes * self.times()


# Key of a chain of fusions: kind, loops, channel, results.
_Chain = tuple[str, tuple[Loop, ...], str, tuple[Shape, ...]]


def collectives(module: Module, visits: Sequence[Visit]) -> Iterator[Collective]:
    """Yield collectives in the order of execution, asynchronous ones once.

    Args:
        module: parsed module.
        visits: result of `execution_order(module)`.
    """
    fusions = {
        visit.instruction.computation("calls"): visit.instruction
        for visit in visits
        if visit.instruction.op == "fusion"
    }
    repeated: dict[_Chain, Collective] = {}
    started: set[_Chain] = set()
    for visit in visits:
        if visit.instruction.op.removesuffix("-start") not in KINDS:
            continue
        collective = _collective(module, visit, fusions)
        starts, in_chain = _role_in_chain(visit.computation, visit.instruction)
        chain: _Chain = (
            collective.kind,
            visit.loops,
            _channel(visit.instruction),
            collective.shapes,
        )
        if starts:
            started.add(chain)
        if starts or not in_chain:
            yield collective
        else:
            repeated.setdefault(chain, collective)
    # A chain whose start was not visited is still one collective.
    for chain, collective in repeated.items():
        if chain not in started:
            yield collective


def _collective(
    module: Module, visit: Visit, fusions: dict[str, Instruction]
) -> Collective:
    """Build a `Collective` from its instruction and the fusion around it, if any."""
    instruction, computation = visit.instruction, visit.computation
    kind = instruction.op.removesuffix("-start")
    operands = tuple(
        shape
        for name in instruction.operands
        for shape in computation.instructions[name].shapes
    )
    shapes = instruction.shapes
    if instruction.op != kind and len(shapes) > len(operands):
        # The result of a start is (operands, results, context), the last optional.
        shapes = shapes[len(operands) : 2 * len(operands)]
    if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        # TPUs write a reduce-scatter as a fusion of all-reduce and dynamic-slice.
        kind, shapes = "reduce-scatter", fusions[computation.name].shapes
    return Collective(
        instruction.name,
        visit.loops,
        instruction.source,
        kind,
        shapes,
        operands,
        _group_size(instruction, module.devices),
    )


def _role_in_chain(
    computation: Computation, instruction: Instruction
) -> tuple[bool, bool]:
    """Return the role in a chain of TPU fusions: (starts it, belongs to it).

    A chain repeats the instruction in the fusion that starts it, in each fusion that
    overlaps it with computation, and in the fusion that ends it.
    """
    markers = [
        other
        for other in computation.instructions.values()
        if other.op == "custom-call" and "AsyncCollective" in other.attributes
    ]
    starts = any(
        "AsyncCollectiveStart" in marker.attributes
        and instruction.name in marker.operands
        for marker in markers
    )
    advances = computation.name.startswith("async_collective_fusion")
    return starts, bool(markers) or advances


def _channel(instruction: Instruction) -> str:
    match = re.search(r"channel_id=(\d+)", instruction.attributes)
    return match[1] if match else ""


def _group_size(instruction: Instruction, devices: int) -> int:
    """Return the devices per replica group; all devices if no groups are named."""
    attributes = instruction.attributes
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    if pairs:
        return pairs[1].count("{")
    # Three spellings: {{0,1},{2,3}}, [groups,size]<=[...], mesh['x'=2,...] {'x'}.
    explicit = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if explicit:
        return explicit[1].count(",") + 1
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if iota:
        return int(iota[1])
    axes = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if axes:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
        # A part of an axis is written 'x':(before)size.
        used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes[2])
        return math.prod(int(part or sizes[axis]) for axis, part in used)
    return devices
