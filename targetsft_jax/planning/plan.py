"""Plan a run: compile its train step for a topology and analyse the program."""

import math
import re
import time
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.config.schema import Config
from targetsft_jax.parallel.vocabulary import WITHIN
from targetsft_jax.planning.absent_cudnn import absent_cudnn
from targetsft_jax.planning.abstract_step import AbstractStep, abstract_step
from targetsft_jax.planning.activations import offloaded_bytes
from targetsft_jax.planning.advice import advice
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.flops import StepFlops, step_flops
from targetsft_jax.planning.hlo import KINDS, Program, read
from targetsft_jax.planning.memory import (
    Memory,
    Part,
    argument_parts,
    compiled_memory,
    temporary_parts,
)
from targetsft_jax.planning.planned_teacher import DEFAULT, Store
from targetsft_jax.planning.topology import Topology
from targetsft_jax.targets.policies import STUDENT
from targetsft_jax.training.micro_batch import vocabulary_groups
from targetsft_jax.training.step_spec import make_mesh


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind, per device per step.

    Attributes:
        count: number of executions.
        bytes: bytes sent.
        dcn_bytes: bytes of them that leave the slice or node.
    """

    count: int
    bytes: int
    dcn_bytes: int = 0


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the step time in seconds, by resource."""

    compute: float
    hbm: float
    ici: float
    dcn: float = 0.0
    host: float = 0.0

    @property
    def seconds(self) -> float:
        """Largest of the bounds: a perfect overlap."""
        return max(self.compute, self.hbm, self.ici, self.dcn, self.host)


@dataclass(frozen=True)
class Cost:
    """Resources of a compiled step, per device.

    Attributes:
        program: compiled program.
        traffic: kind -> collectives of that kind.
        hbm_bytes: estimated bytes read from and written to HBM.
        roofline: bounds of the step time; None if the rates are unknown.
    """

    program: Program
    traffic: dict[str, Traffic]
    hbm_bytes: int
    roofline: Roofline | None


@dataclass(frozen=True)
class Plan:
    """Result of `make_plan`.

    Attributes:
        config, topology, step: inputs of the compilation.
        lower_seconds, compile_seconds: wall time.
        memory: memory per device.
        parts: contributions to the memory, largest first.
        flops: FLOPs per token.
        cost: traffic and bounds; None if the compiler ran out of memory.
        advice: keys to change; empty if the step fits.
    """

    config: Config
    topology: Topology
    step: AbstractStep
    lower_seconds: float
    compile_seconds: float
    memory: Memory
    parts: tuple[Part, ...]
    flops: StepFlops
    cost: Cost | None
    advice: tuple[str, ...]

    @property
    def tokens_per_step(self) -> int:
        """Tokens per step over all devices, padding included."""
        return self.config.train.batch_size * self.config.data.max_length

    @property
    def roofline(self) -> Roofline | None:
        """Lower bounds of the step time; None if unknown."""
        return None if self.cost is None else self.cost.roofline

    @property
    def mfu_bound(self) -> float | None:
        """Upper bound of the MFU; None without a roofline.

        It is relative to the bfloat16 rate, so that int8 products may exceed 1.
        """
        if self.roofline is None or self.topology.chip is None:
            return None
        flops = self.flops.model * self.tokens_per_step / len(self.topology.devices)
        return flops / (self.topology.chip.flops * self.roofline.seconds)


def make_plan(
    config: Config,
    topology: Topology,
    capacity: float | None = None,
    store: Store = DEFAULT,
) -> Plan:
    """Compile the train step of a configuration for a topology.

    Args:
        config: configuration of the run; no data and no weights are read.
        topology: devices.
        capacity: GiB per device; None: that of the topology's devices.
        store: contents of a teacher cache that is yet to be made.

    Raises:
        ConfigError: a key does not fit the models or the mesh.
        ValueError, OSError: a model folder cannot be used, or the compiler failed
            for a reason other than memory.
    """
    start = time.perf_counter()
    with absent_cudnn(topology.gpu):
        step = abstract_step(config, make_mesh(config, topology.devices), store)
    lowered = time.perf_counter()
    compiled, out_of_memory = _compile(step.lowered)
    done = time.perf_counter()
    if capacity is None:
        capacity = topology.capacity
    flops = flops_of(step)
    arguments = argument_parts(step)
    cost = None
    if compiled is None:
        gib = sum(part.gib for part in arguments)
        memory = Memory(gib, None, None, out_of_memory, capacity)
    else:
        memory = compiled_memory(compiled, capacity)
        tokens = config.train.batch_size * config.data.max_length
        compute = 0.0
        if topology.chip is not None:
            compute = topology.chip.compute_seconds(flops.executed, flops.int8)
            compute *= tokens / len(topology.devices)
        program = read(compiled.as_text(), topology.nodes(step.mesh))
        cost = _cost(program, step, memory, topology, compute)
    temporaries = temporary_parts(step, None if cost is None else cost.program)
    return Plan(
        config=config,
        topology=topology,
        step=step,
        lower_seconds=lowered - start,
        compile_seconds=done - lowered,
        memory=memory,
        parts=tuple(sorted([*arguments, *temporaries], key=lambda part: -part.gib)),
        flops=flops,
        cost=cost,
        advice=() if memory.fits else tuple(advice(config, step, capacity)),
    )


def _compile(lowered: Any) -> tuple[Any, float]:
    """Compile; on out-of-memory return None and the GiB in XLA's error."""
    try:
        return lowered.compile(), 0.0
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        needed = re.search(
            r"\(([\d.]+)([KMGT])\) exceeds available", message
        ) or re.search(r"Used ([\d.]+)([KMGT]) of", message)
        if "RESOURCE_EXHAUSTED" not in message or needed is None:
            raise ValueError(f"XLA did not compile the step: {message}") from None
        scale = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
        return None, float(needed[1]) * scale[needed[2]]


def flops_of(
    step: AbstractStep, remat: str | None = None, kernel: str | None = None
) -> StepFlops:
    """Count the FLOPs per token of a step.

    Args:
        step: step.
        remat, kernel: policy and attention kernel; None: those of the step.
    """
    spec = step.spec
    int8 = [name for name, role in step.roles.items() if role.int8]
    return step_flops(
        spec.student,
        spec.frozen.values(),
        length=step.batch["tokens"].shape[-1],
        vocabulary=spec.vocab_size or spec.student.vocab_size,
        remat=remat or spec.numerics.remat,
        kernel=kernel or step.kernel,
        lora=spec.lora,
        policies=len(spec.method.policy.held),
        label_heads=spec.method.policy.reads.count(STUDENT),
        frozen_lengths=[step.row_length(role) for role in spec.frozen],
        stored_heads=[x for name, x in spec.second.items() if name not in spec.frozen],
        int8=[step.roles[name].config for name in int8],
        int8_lengths=[step.row_length(name) for name in int8],
    )


def _cost(
    program: Program,
    step: AbstractStep,
    memory: Memory,
    topology: Topology,
    compute: float,
) -> Cost:
    """Compute traffic and roofline of a compiled program.

    Args:
        program: program of one device.
        step, memory, topology: see `Plan`.
        compute: seconds of the products at peak rates.
    """
    # An upper bound: the loop stops after the chunk of the last target token.
    chunks = _max_loss_chunks(step)
    traffic = _traffic(program, chunks)
    hbm_bytes = program.hbm_bytes(chunks) + int(2 * memory.arguments * GIB)
    roofline = None
    if topology.chip is not None:
        dcn = sum(each.dcn_bytes for each in traffic.values())
        ici = sum(each.bytes for each in traffic.values()) - dcn
        roofline = Roofline(
            compute=compute,
            hbm=hbm_bytes / topology.chip.hbm_bandwidth,
            ici=ici / topology.chip.ici_bandwidth,
            dcn=dcn / topology.chip.dcn_bandwidth,
            host=2 * _offloaded(step) / topology.chip.host_bandwidth,
        )
    return Cost(program, traffic, hbm_bytes, roofline)


def _offloaded(step: AbstractStep) -> float:
    """Return the bytes per device that the layers save in host memory per step."""
    spec, tokens = step.spec, step.batch["tokens"]
    sharded = math.prod(tokens.sharding.shard_shape(tokens.shape))
    return offloaded_bytes(
        spec.student,
        spec.numerics.remat,
        sharded,
        itemsize=spec.numerics.dtype.itemsize,
        tensor=step.mesh.shape["tensor"],
    )


def _max_loss_chunks(step: AbstractStep) -> int:
    """Return the chunks of the loss per device if every token is a target."""
    tokens = step.batch["tokens"]
    rows, length = tokens.sharding.shard_shape(tokens.shape)[1:]
    groups = vocabulary_groups(step.spec, step.mesh, tokens.size // tokens.shape[0])
    group = math.prod(groups.shape[axis] for axis in WITHIN)
    return -(-rows * length * group // step.spec.numerics.loss_chunk)


def _traffic(program: Program, unknown: int) -> dict[str, Traffic]:
    """Sum collectives by kind; `unknown`: trip count of loops without a known one."""
    traffic = {}
    for kind in KINDS:
        of_kind = [c for c in program.collectives if c.kind == kind]
        if of_kind:
            counts = [c.times(unknown) for c in of_kind]
            sent = sum(c.bytes * count for c, count in zip(of_kind, counts))
            dcn = sum(c.dcn_bytes * count for c, count in zip(of_kind, counts))
            traffic[kind] = Traffic(sum(counts), sent, dcn)
    return traffic
