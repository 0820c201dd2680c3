"""Memory per device during a step: totals, and the largest contributions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.parallel.mesh import platform
from targetsft_jax.planning.abstract_step import AbstractStep, bytes_per_device
from targetsft_jax.planning.activations import saved_bytes
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.hlo import Program


@dataclass(frozen=True)
class Memory:
    """GiB per device.

    Attributes:
        arguments: train state, frozen parameters and batch.
        temporaries: all other arrays, with reuse of buffers; None if the compiler ran
            out of memory.
        peak: largest live size; None if the compiler ran out of memory.
        needed: the peak, or the size in the out-of-memory error.
        capacity: HBM of the device; None if unknown.
    """

    arguments: float
    temporaries: float | None
    peak: float | None
    needed: float
    capacity: float | None

    @property
    def fits(self) -> bool:
        """True if the program fits on an otherwise empty device."""
        return self.capacity is None or self.needed <= self.capacity


@dataclass(frozen=True)
class Part:
    """A contribution to the memory of a device.

    Attributes:
        name: description for the report.
        gib: GiB per device.
    """

    name: str
    gib: float


def compiled_memory(compiled: Any, capacity: float | None) -> Memory:
    """Read XLA's memory analysis of a compiled program (`jax.stages.Compiled`)."""
    analysis = compiled.memory_analysis()
    arguments = analysis.argument_size_in_bytes
    temporaries = analysis.temp_size_in_bytes
    # Not every platform reports a peak.
    peak = getattr(analysis, "peak_memory_in_bytes", 0)
    if not peak:
        outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        peak = arguments + temporaries + outputs
    return Memory(arguments / GIB, temporaries / GIB, peak / GIB, peak / GIB, capacity)


def argument_parts(step: AbstractStep) -> list[Part]:
    """Return the exact contributions of the step's arguments."""
    trained = "student parameters" if step.spec.lora is None else "adapters"
    trees = {
        trained: step.state.params,
        "AdamW moments": step.state.optimizer,
        **{f"{name} policy": tree for name, tree in step.state.held.items()},
        **{f"{name} parameters": tree for name, tree in step.frozen.items()},
        "batch": step.batch,
    }
    return [Part(name, bytes_per_device(tree) / GIB) for name, tree in trees.items()]


def temporary_parts(step: AbstractStep, program: Program | None) -> list[Part]:
    """Return the largest contributions of temporary arrays.

    Args:
        step: lowered step.
        program: compiled program; None: the contributions are estimates.
    """
    if program is None:
        return list(_estimates(step))
    return [
        Part(
            f"{buffer.shape} of {buffer.source or buffer.op}", buffer.shape.bytes / GIB
        )
        for buffer in program.largest(3)
    ]


def _estimates(step: AbstractStep) -> Iterator[Part]:
    """Estimate the temporary arrays from shapes, without a compiled program."""
    spec, tensor = step.spec, step.mesh.shape["tensor"]
    student, itemsize = spec.student, spec.numerics.dtype.itemsize
    rows, length = rows_per_device(step), step.batch["tokens"].shape[-1]
    tokens = rows * length / step.mesh.shape["context"]
    yield Part("float32 gradients", gradient_bytes(step, 4) / GIB)
    remat = spec.numerics.remat
    saved = saved_bytes(student, remat, tokens, itemsize=itemsize, tensor=tensor)
    yield Part(f"activations of all layers under remat {remat}", saved / GIB)
    if materialises_scores(step):
        scores = tokens * length * student.num_heads / tensor * 4
        yield Part("attention scores of one layer", scores / GIB)
    models = (student, *spec.frozen.values())
    columns = (spec.vocab_size or student.vocab_size) / tensor
    columns /= spec.vocab_group or 1
    widths = sum(model.hidden_size for model in models)
    yield Part("heads in the loss", widths * itemsize * columns / GIB)
    logits = spec.numerics.loss_chunk * columns * 4 * len(models)
    yield Part("logits of one chunk", logits / GIB)


def materialises_scores(step: AbstractStep) -> bool:
    """Return whether attention materialises scores [L, L] on an accelerator."""
    return step.kernel == "xla" and platform(step.mesh) != "cpu"


def gradient_bytes(step: AbstractStep, itemsize: int) -> int:
    """Return the bytes per device of the gradients of all trained parameters."""
    return sum(
        itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(step.state.params)
    )


def rows_per_device(step: AbstractStep) -> int:
    """Return the rows of a micro-batch per device."""
    tokens = step.batch["tokens"]
    return tokens.sharding.shard_shape(tokens.shape)[1]
