"""A compiled step as a page: memory, work, traffic, and a bound on its time."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from targetsft_jax.parallel import vocabulary
from targetsft_jax.planning.chips import GIB, Chip
from targetsft_jax.planning.compile import Compiled
from targetsft_jax.planning.flops import StepFlops, step_flops
from targetsft_jax.planning.program import Program, read
from targetsft_jax.training.step import vocabulary_groups


@dataclass(frozen=True)
class Plan:
    """The figures of one device; bytes, FLOPs and seconds of one optimizer step.

    Attributes:
        arguments, temporaries, peak: bytes; capacity: of the device, or None.
        tokens: in a step, over all devices; flops: of one token.
        collectives: kind -> (how many are executed, bytes that the device sends).
        compute, memory, links: seconds that each alone would take, or None.
    """

    arguments: int
    temporaries: int
    peak: int
    capacity: float | None
    tokens: int
    flops: StepFlops
    collectives: dict[str, tuple[int, int]]
    largest: list[str]
    compute: float | None = None
    memory: float | None = None
    links: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the peak is within the device; True where that is not known."""
        return self.capacity is None or self.peak <= self.capacity

    @property
    def seconds(self) -> float | None:
        """The largest of the three: no step is faster."""
        if self.compute is None or self.memory is None or self.links is None:
            return None
        return max(self.compute, self.memory, self.links)


def make_plan(compiled: Compiled, chip: Chip | None) -> Plan:
    """Everything that the compiled program and the architectures say."""
    program = read(compiled.text)
    memory, spec = compiled.memory, compiled.spec
    tokens = math.prod(compiled.shape)
    flops = step_flops(spec.student, spec.frozen.values(), compiled.shape[2])
    moved = _collectives(program, _loss_chunks(compiled))
    figures: dict[str, Any] = dict(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        capacity=chip and chip.memory,
        tokens=tokens,
        flops=flops,
        collectives=moved,
        largest=[
            f"{b.shape.bytes / GIB:6.2f} GiB  {b.shape}  {b.source or b.op}"
            for b in program.largest(3)
        ],
    )
    if chip is None:
        return Plan(**figures)
    sent = sum(size for _, size in moved.values())
    # Each argument is read once and what is donated written once, at the very least.
    touched = memory.argument_size_in_bytes + memory.alias_size_in_bytes
    return Plan(
        **figures,
        compute=tokens * flops.total / compiled.mesh.size / chip.flops,
        memory=touched / chip.bandwidth,
        links=sent / chip.links,
    )


def lines(compiled: Compiled, plan: Plan, chip: Chip | None) -> list[str]:
    """The page."""
    micro, rows, length = compiled.shape
    made = [
        f"mesh        {dict(compiled.mesh.shape)}, {compiled.mesh.size} devices",
        f"step        {micro} x {rows} rows of {length} tokens, "
        f"{compiled.spec.method}, {compiled.spec.dtype}, remat {compiled.spec.remat}",
        f"vocabulary  {compiled.spec.vocab_size:,} tokens, from {compiled.vocabulary}; "
        f"shared by {_shares(compiled)} devices",
        f"compiled    in {compiled.seconds:.0f} s",
        "",
        "memory of one device, GiB",
        f"  arguments   {plan.arguments / GIB:7.2f}  parameters, moments, batch",
        f"  temporaries {plan.temporaries / GIB:7.2f}",
        f"  peak        {plan.peak / GIB:7.2f}{_of_capacity(plan)}",
        "  largest arrays",
        *(f"    {line}" for line in plan.largest),
        "",
        "work, model FLOPs (causal; recomputation not counted)",
        f"  a token     {plan.flops.total / 1e9:9.2f} GFLOP: student "
        f"{plan.flops.student / 1e9:.2f}, frozen {plan.flops.frozen / 1e9:.2f}, heads "
        f"{plan.flops.heads / 1e9:.2f}",
        f"  a step      {plan.tokens * plan.flops.total / 1e12:9.1f} TFLOP for "
        f"{plan.tokens:,} tokens",
        "",
        "collectives of one device and step     number      GiB sent",
        *(
            f"  {kind:<34}{count:>9,}{size / GIB:>14.3f}"
            for kind, (count, size) in sorted(plan.collectives.items())
        ),
    ]
    if plan.seconds is not None and chip is not None:
        total = plan.tokens * plan.flops.total / compiled.mesh.size
        made += [
            "",
            "no step is faster than, ms",
            f"  compute     {1e3 * plan.compute:9.1f}",  # type: ignore[operator]
            f"  HBM         {1e3 * plan.memory:9.1f}  reading and writing the state",  # type: ignore[operator]
            f"  links       {1e3 * plan.links:9.1f}  if they are always busy",  # type: ignore[operator]
            f"  so MFU is at most {total / (plan.seconds * chip.flops):.0%}, a bound "
            "and no forecast",
        ]
    return made


def _of_capacity(plan: Plan) -> str:
    if plan.capacity is None:
        return ""
    spare = (plan.capacity - plan.peak) / GIB
    if spare < 0:
        return f"  of {plan.capacity / GIB:.2f}: DOES NOT FIT, by {-spare:.2f}"
    return f"  of {plan.capacity / GIB:.2f}: fits, {spare:.2f} to spare"


def advice(remat: str, micro: int, rows: int) -> list[str]:
    """What to change where a step does not fit, the cheapest first."""
    made = []
    if remat != "full":
        made.append("--train.remat full keeps only the layers' inputs")
    if rows > 1:
        made.append(
            f"--train.micro_batches {2 * micro} takes half of the rows at a time"
        )
    made.append("more devices on --mesh.fsdp share parameters, moments and gradients")
    made.append("--mesh.tensor 2 (or more) splits layers and vocabulary once more")
    return made


def allocations(message: str, count: int = 3) -> list[str]:
    """The largest allocations that the TPU compiler names when memory runs out."""
    found = re.findall(
        r"Size: ([\d.]+)([KMG]).*?\n(?:.*?Operator: op_name=\"([^\"]*)\".*?\n)?"
        r".*?Shape: (\S+)",
        message,
    )
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sized = sorted(
        {(float(n) * units[u], shape, op) for n, u, op, shape in found}, reverse=True
    )
    return [
        f"{size / GIB:6.2f} GiB  {shape}  {op}" for size, shape, op in sized[:count]
    ]


def _shares(compiled: Compiled) -> int:
    """Devices among which a head's rows are split."""
    tokens = math.prod(compiled.shape[1:])
    shape = vocabulary_groups(compiled.spec, compiled.mesh, tokens).shape
    return shape[vocabulary.WITHIN] * shape["tensor"]


def _loss_chunks(compiled: Compiled) -> int:
    """Chunks of the loss on one device; its loop's length is not in the program."""
    tokens = math.prod(compiled.shape[1:])
    groups = vocabulary_groups(compiled.spec, compiled.mesh, tokens)
    met = tokens // (groups.shape["data"] * groups.shape[vocabulary.ACROSS])
    return -(-met // min(met, compiled.spec.loss_chunk))


def _collectives(program: Program, unknown: int) -> dict[str, tuple[int, int]]:
    """By kind: how many are executed, and the bytes sent."""
    counts: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    for c in program.collectives:
        times = math.prod(
            unknown if loop.trips is None else loop.trips for loop in c.loops
        )
        if c.group > 1:
            counts[c.kind] += times
            sizes[c.kind] += times * c.bytes
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def as_json(compiled: Compiled, plan: Plan) -> dict[str, Any]:
    """The plan as plain numbers."""
    return {
        "mesh": dict(compiled.mesh.shape),
        "batch": list(compiled.shape),
        "compile_seconds": compiled.seconds,
        "argument_bytes": plan.arguments,
        "temporary_bytes": plan.temporaries,
        "peak_bytes": plan.peak,
        "capacity_bytes": plan.capacity,
        "fits": plan.fits,
        "flops_per_token": plan.flops.total,
        "tokens_per_step": plan.tokens,
        "collectives": {
            kind: {"number": count, "bytes": size}
            for kind, (count, size) in plan.collectives.items()
        },
        "bound_seconds": {
            "compute": plan.compute,
            "memory": plan.memory,
            "links": plan.links,
        },
    }
