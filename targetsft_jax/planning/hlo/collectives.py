"""Collectives of a compiled program: kind, operands, group size, bytes sent.

An asynchronous collective has several instructions: start and done, or on TPUs a chain
of fusions that each repeat it. It is counted once, at its start.

The program of several TPU slices is that of one slice: what crosses the data-centre
network is a `send` whose attributes name the collective and its slices. On GPUs the
groups are of all devices, and cross nodes if their members do.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targetsft_jax.planning.hlo.loops import Executed, Loop, Visit
from targetsft_jax.planning.hlo.parse import Computation, Instruction, Module, Shape
from targetsft_jax.planning.hlo.replica_groups import (
    most_slices,
    permutation,
    replica_groups,
)

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
        slices: number of slices or nodes that a group spans.
    """

    kind: str
    shapes: tuple[Shape, ...]
    operands: tuple[Shape, ...]
    group: int
    slices: int = 1

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
    def dcn_bytes(self) -> int:
        """Bytes of `bytes` that leave the slice or node.

        Hierarchical algorithms: what s slices exchange is first reduced within them,
        and gathered within them afterwards. With n devices, n / s in each slice:
        all-gather (s − 1) B, reduce-scatter (s − 1) B / n, all-reduce twice that,
        all-to-all (1 − 1 / s) B, collective-permute B. Their sum with what stays within
        is that of a ring.
        """
        if self.slices == 1:
            return 0
        operands = sum(shape.bytes for shape in self.operands)
        if self.kind == "collective-permute":
            return operands
        others = self.slices - 1
        if self.kind == "all-gather":
            return operands * others
        if self.kind == "all-to-all":
            return operands * others // self.slices
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * operands * others // self.group

    @property
    def total(self) -> int:
        """Bytes sent per run; a loop of unknown trip count counts once."""
        return self.bytes * self.times()


_MEGASCALE = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
_FRONTEND = re.compile(r'\b(_xla_\w+)="([^"]*)"')
_TRANSFERS = {"ONE_TO_ONE": "collective-permute"}
"""Transfers between slices whose names are not those of collectives."""

# Key of a chain of fusions: kind, loops, channel, results.
_Chain = tuple[str, tuple[Loop, ...], str, tuple[Shape, ...]]


def collectives(
    module: Module, visits: Sequence[Visit], slices: Sequence[int] = ()
) -> Iterator[Collective]:
    """Yield collectives in the order of execution, asynchronous ones once.

    Args:
        module: parsed module.
        visits: result of `execution_order(module)`.
        slices: slice or node of each device; empty for a single one.
    """
    fusions = {
        visit.instruction.computation("calls"): visit.instruction
        for visit in visits
        if visit.instruction.op == "fusion"
    }
    repeated: dict[_Chain, Collective] = {}
    started: set[_Chain] = set()
    for visit in visits:
        if _crosses_slices(visit.instruction):
            yield _between_slices(visit)
        if visit.instruction.op.removesuffix("-start") not in KINDS:
            continue
        collective = _collective(module, visit, fusions, slices)
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
    module: Module,
    visit: Visit,
    fusions: dict[str, Instruction],
    slices: Sequence[int],
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
    pairs = permutation(instruction.attributes)
    groups = replica_groups(instruction.attributes, module.devices)
    return Collective(
        instruction.name,
        visit.loops,
        instruction.source,
        kind,
        shapes,
        operands,
        groups.shape[1] if pairs is None else len(pairs),
        most_slices(groups if pairs is None else pairs, slices),
    )


def _crosses_slices(instruction: Instruction) -> bool:
    """Return whether an instruction sends to other TPU slices."""
    return instruction.op == "send" and _MEGASCALE in instruction.attributes


def _between_slices(visit: Visit) -> Collective:
    """Build the collective of a `send` between TPU slices, one device in each."""
    instruction, computation = visit.instruction, visit.computation
    attributes = dict(_FRONTEND.findall(instruction.attributes))
    transfer = attributes["_xla_megascale_transfer_type"]
    kind = _TRANSFERS.get(transfer, transfer.lower().replace("_", "-"))
    if kind not in KINDS:
        raise ValueError(
            f"the program has a transfer between slices of type {transfer!r}, which is "
            f"unknown; expected one of {', '.join(KINDS)}"
        )
    # "{1,2}x{0:63}": devices 0 to 63 of slices 1 and 2, each with its counterpart.
    slices = attributes["_xla_megascale_target"].partition("}")[0].count(",") + 1
    operand = computation.instructions[instruction.operands[0]].shapes
    return Collective(
        instruction.name,
        visit.loops,
        instruction.source,
        kind,
        operand,
        operand,
        slices,
        slices,
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
