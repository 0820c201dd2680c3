"""One configuration on one topology: compile its step, and measure what came out."""

import re
import time
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.config.schema import Config
from targetsft_jax.planning.abstract_step import AbstractStep, abstract_step
from targetsft_jax.planning.advice import Part, advice, arguments, temporaries
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.flops import StepFlops, step_flops
from targetsft_jax.planning.hlo import KINDS, Program, read
from targetsft_jax.planning.topology import Topology
from targetsft_jax.targets.policies import STUDENT
from targetsft_jax.training.step import vocabulary_groups
from targetsft_jax.training.step_spec import make_mesh


@dataclass(frozen=True)
class Memory:
    """GiB of a device.

    Attributes:
        arguments: state, frozen parameters and batch.
        temporaries: all else, as the compiler reports it.
        peak: the most that lives at a time; None where the compiler gave up.
        needed: the peak, or what the compiler asked for when it gave up.
        capacity: what there is; None if unknown.
    """

    arguments: float
    temporaries: float | None
    peak: float | None
    needed: float
    capacity: float | None

    @property
    def fits(self) -> bool:
        """Whether the program fits an empty device."""
        return self.capacity is None or self.needed <= self.capacity


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind: how many in a step, and bytes that a device sends."""

    count: int
    bytes: int


@dataclass(frozen=True)
class Roofline:
    """Seconds that a step takes at least, by what bounds it."""

    compute: float
    hbm: float
    ici: float

    @property
    def seconds(self) -> float:
        """The largest: if the three overlap wholly."""
        return max(self.compute, self.hbm, self.ici)


@dataclass(frozen=True)
class Plan:
    """What a configuration would do on a topology.

    Attributes:
        config, topology, step: what was compiled.
        lowering, compiling: seconds.
        memory: of a device.
        flops: of a token.
        parts: of memory, the largest first.
        advice: what to change; empty where it fits.
        program: what the compiled text says; None where the compiler gave up.
        traffic: collectives by kind.
        hbm_bytes: estimate of what a device reads and writes in a step.
        roofline: None without a program, or on devices of unknown rates.
    """

    config: Config
    topology: Topology
    step: AbstractStep
    lowering: float
    compiling: float
    memory: Memory
    flops: StepFlops
    parts: tuple[Part, ...]
    advice: tuple[str, ...]
    program: Program | None
    traffic: dict[str, Traffic]
    hbm_bytes: int | None
    roofline: Roofline | None

    @property
    def tokens(self) -> int:
        """In a step, over all devices."""
        return self.config.train.batch_size * self.config.data.max_length

    @property
    def mfu(self) -> float | None:
        """The MFU that the roofline's time would mean: a bound."""
        if self.roofline is None or self.topology.chip is None:
            return None
        done = self.flops.model * self.tokens / len(self.topology.devices)
        return done / (self.topology.chip.flops * self.roofline.seconds)


def make_plan(config: Config, topology: Topology, capacity: float | None) -> Plan:
    """Compile the step of a configuration for a topology.

    Args:
        config: the run's configuration; its data is not opened, no weights are read.
        topology: the devices.
        capacity: GiB of a device, in place of the topology's own.

    Raises:
        ConfigError, ValueError, OSError: naming what cannot be used.
    """
    began = time.perf_counter()
    mesh = make_mesh(config, topology.devices)
    step = abstract_step(config, mesh)
    lowered = time.perf_counter()
    chip = topology.chip
    if capacity is None and chip is not None:
        capacity = chip.hbm
    compiled, needed = _compile(step.lowered)
    done = time.perf_counter()
    held = arguments(step)
    spec = step.spec
    flops = step_flops(
        spec.student,
        spec.frozen.values(),
        length=config.data.max_length,
        vocabulary=spec.vocab_size or spec.student.vocab_size,
        remat=spec.remat,
        lora=spec.lora,
        policies=len(spec.policy.held),
        labels=spec.policy.reads.count(STUDENT),
    )
    program, traffic, hbm_bytes, roofline = None, {}, None, None
    if compiled is None:
        memory = Memory(sum(p.gib for p in held), None, None, needed, capacity)
    else:
        memory = _memory(compiled, capacity)
        program = read(compiled.as_text())
        chunks = _chunks(step)
        traffic = _traffic(program, chunks)
        hbm_bytes = program.hbm_bytes(chunks)
        hbm_bytes += int(2 * memory.arguments * GIB)
        if chip is not None:
            tokens = config.train.batch_size * config.data.max_length
            roofline = Roofline(
                flops.executed * tokens / len(topology.devices) / chip.flops,
                hbm_bytes / chip.hbm_bandwidth,
                sum(t.bytes for t in traffic.values()) / chip.ici_bandwidth,
            )
    parts = sorted([*held, *temporaries(step, program)], key=lambda part: -part.gib)
    return Plan(
        config,
        topology,
        step,
        lowered - began,
        done - lowered,
        memory,
        flops,
        tuple(parts),
        () if memory.fits else tuple(advice(config, step, memory.needed, capacity)),
        program,
        traffic,
        hbm_bytes,
        roofline,
    )


def _compile(lowered: Any) -> tuple[Any, float]:
    """The compiled program; or None, and the GiB that it would have needed."""
    try:
        return lowered.compile(), 0.0
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        needed = re.search(
            r"\(([\d.]+)([KMGT])\) exceeds available", said
        ) or re.search(r"Used ([\d.]+)([KMGT]) of", said)
        if "RESOURCE_EXHAUSTED" not in said or needed is None:
            raise ValueError(f"XLA did not compile the step: {said}") from None
        scale = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
        return None, float(needed[1]) * scale[needed[2]]


def _memory(compiled: Any, capacity: float | None) -> Memory:
    said = compiled.memory_analysis()
    given, temporary = said.argument_size_in_bytes, said.temp_size_in_bytes
    # Not every platform reports a peak.
    peak = getattr(said, "peak_memory_in_bytes", 0)
    peak = peak or given + temporary + said.output_size_in_bytes - (
        said.alias_size_in_bytes
    )
    return Memory(given / GIB, temporary / GIB, peak / GIB, peak / GIB, capacity)


def _chunks(step: AbstractStep) -> int:
    """Chunks of the loss at most: its loop ends where no target token is left."""
    tokens = step.batch["tokens"]
    rows, length = tokens.sharding.shard_shape(tokens.shape)[1:]
    groups = vocabulary_groups(step.spec, step.mesh, tokens.size // tokens.shape[0])
    return -(-rows * length * groups.shape["fsdp"] // step.spec.loss_chunk)


def _traffic(program: Program, chunks: int) -> dict[str, Traffic]:
    found = {}
    for kind in KINDS:
        of_kind = [c for c in program.collectives if c.kind == kind]
        times = [c.times(chunks) for c in of_kind]
        if of_kind:
            moved = sum(c.bytes * n for c, n in zip(of_kind, times))
            found[kind] = Traffic(sum(times), moved)
    return found
