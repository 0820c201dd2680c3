"""Compiled SPMD program: collectives, matrix products and arrays.

    program = read(compiled.as_text())
    [c for c in program.collectives if c.kind == "all-gather" and c.loops]
    assert not any(shape.dims == (tokens, vocabulary) for shape in program.shapes())

The text is the program of one device, on CPU, TPU or GPU. Instructions are listed in
the order of execution, with their enclosing loops.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from targetsft_jax.planning.hlo.buffers import ALIASES, Buffer, buffers
from targetsft_jax.planning.hlo.collectives import Collective, collectives
from targetsft_jax.planning.hlo.loops import Executed, execution_order
from targetsft_jax.planning.hlo.parse import Shape, parse_module
from targetsft_jax.planning.hlo.products import Dot, products


@dataclass(frozen=True)
class Program:
    """Compiled program of one device.

    Attributes:
        collectives: collectives, in the order of execution.
        dots: matrix products, in the order of execution.
        buffers: results of all instructions, in the order of execution.
    """

    collectives: tuple[Collective, ...]
    dots: tuple[Dot, ...]
    buffers: tuple[Buffer, ...]

    def shapes(self, fused: bool = True) -> set[Shape]:
        """Return the shapes of all arrays; `fused=False` excludes those in fusions."""
        return {b.shape for b in self.buffers if fused or not b.fused}

    def largest(self, count: int) -> list[Buffer]:
        """Return the largest arrays outside fusions, one per shape and source."""
        materialised = [b for b in self.buffers if not b.fused and b.op not in ALIASES]
        distinct = {(b.shape, b.source): b for b in reversed(materialised)}
        return sorted(distinct.values(), key=lambda b: -b.shape.bytes)[:count]

    @property
    def flops(self) -> int:
        """FLOPs of all matrix products, without custom kernels, which are opaque."""
        return sum(dot.total for dot in self.dots)

    def hbm_bytes(self, unknown: int = 1) -> int:
        """Estimate HBM traffic in bytes: each array is written once and read once.

        A lower bound: arguments, repeated reads and padding are not counted.

        Args:
            unknown: trip count of loops without a known one.
        """
        return 2 * sum(b.written * b.times(unknown) for b in self.buffers)

    @property
    def unknown_loops(self) -> set[str]:
        """Loops of unknown trip count around collectives or products."""
        executed: Iterable[Executed] = (*self.collectives, *self.dots)
        return {
            loop.name for each in executed for loop in each.loops if loop.trips is None
        }


def read(text: str, slices: Sequence[int] = ()) -> Program:
    """Parse the text of a compiled program (`compiled.as_text()`).

    Args:
        text: text of the program.
        slices: slice of each device, in the order of the mesh; empty for one slice.

    Raises:
        ValueError: the text is not a compiled HLO module.
    """
    module = parse_module(text)
    visits = execution_order(module)
    return Program(
        tuple(collectives(module, visits, slices)),
        tuple(products(visits)),
        tuple(buffers(module, visits)),
    )
