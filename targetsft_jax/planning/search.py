"""Search for the configuration keys with the fastest step that fits.

Arithmetic first: a candidate whose arguments, gradients and saved activations alone
exceed the memory is dropped, the others are sorted by the time that FLOPs and bytes
take at least. The best of them are compiled, until no other can be faster. What a
compilation needed beyond its estimate corrects the estimates of that mesh.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.planning.abstract_step import AbstractStep, untraced_step
from targetsft_jax.planning.candidates import (
    Axes,
    Candidate,
    as_configured,
    candidates,
    steps_by_mesh,
)
from targetsft_jax.planning.estimate import Estimate, estimate
from targetsft_jax.planning.outcome import SPARE, Compiler, Outcome
from targetsft_jax.planning.topology import Topology
from targetsft_jax.training.step_spec import make_mesh

LEAST = 3
"""Candidates to compile at least: equal bounds differ in traffic and memory."""

Steps = Mapping[Axes, AbstractStep]


@dataclass(frozen=True)
class Search:
    """Result of `search`.

    Attributes:
        config, topology: inputs.
        configured: outcome of the own keys; None if no run accepts them.
        outcomes: compiled candidates, the best first.
        considered: number of candidates.
        too_large: number of them that arithmetic dropped.
        smallest: the one with the smallest lower bound of the memory, and that bound.
        left: number of candidates that could be faster and were not compiled.
    """

    config: Config
    topology: Topology
    configured: Outcome | None
    outcomes: Sequence[Outcome]
    considered: int
    too_large: int
    smallest: tuple[Candidate, float]
    left: int

    @property
    def best(self) -> Outcome | None:
        """First outcome that fits; None if none does."""
        return next((each for each in self.outcomes if each.fits), None)


@dataclass
class _Queue:
    """Candidates that are not yet compiled, with their estimates.

    Attributes:
        waiting: candidate -> estimate.
        capacity: GiB per device; None: unknown.
        offsets: mesh -> GiB that the last compilation needed beyond its estimate.
    """

    waiting: dict[Candidate, Estimate]
    capacity: float | None
    offsets: dict[Axes, float] = field(default_factory=dict)

    def next(self, count: int) -> list[Candidate]:
        """Return the most promising candidates."""
        return sorted(self.waiting, key=self._order)[:count]

    def _order(self, candidate: Candidate) -> tuple[float, ...]:
        """Sort key: those that likely fit first, then by time, then by memory."""
        each = self.waiting[candidate]
        needed = each.needed + self.offsets.get(candidate.mesh, 0.0)
        limit = float("inf") if self.capacity is None else self.capacity * (1 - SPARE)
        bound = each.seconds or each.executed
        total = each.compute + each.ici + each.hbm + each.host
        is_variant = candidate.vocab_group is not None or candidate.attention != "auto"
        return (needed > limit, round(bound, 2), is_variant, total, needed)

    def remove(self, result: Outcome) -> None:
        """Remove a compiled candidate and learn from its memory."""
        removed = self.waiting.pop(result.candidate, None)
        if removed is not None and not result.error:
            self.offsets[result.candidate.mesh] = result.needed - removed.needed

    def faster(self, best: Outcome | None) -> int:
        """Return the number of candidates that could be faster than the best."""
        if best is None:
            return len(self.waiting)
        if best.roofline is None:
            return sum(each.executed < best.executed for each in self.waiting.values())
        # The time of the products is exact; the other times are estimates.
        bound = 0.999 * best.roofline.seconds
        return sum(each.compute < bound for each in self.waiting.values())


def search(
    config: Config,
    topology: Topology,
    budget: int,
    capacity: float | None = None,
    jobs: int = 1,
    report: Callable[[Outcome], None] = lambda result: None,
) -> Search:
    """Search for the fastest keys of a configuration that fit.

    Args:
        config: configuration; the models, the batch size and the results of a step are
            kept.
        topology: devices.
        budget: compilations at most; cached ones count.
        capacity: GiB per device; None: that of the topology's devices.
        jobs: processes that compile at the same time.
        report: called with each outcome, as it is known.

    Raises:
        ConfigError: no mesh of the topology divides the batch.
        ValueError, OSError: as `make_plan`.
    """
    capacity = topology.capacity if capacity is None else capacity
    steps = steps_by_mesh(config, topology)
    if not steps:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, which no mesh of "
            f"{topology.name} divides; expected a multiple of its devices"
        )
    estimates = {
        each: estimate(each, steps[each.mesh], topology.chip)
        for each in candidates(config, steps)
    }
    kept = {
        each: value
        for each, value in estimates.items()
        if capacity is None or value.floor <= capacity
    }
    compiler = Compiler(config, topology, capacity, jobs)
    first = min(estimates, key=lambda each: estimates[each].floor)
    queue = _Queue(dict(kept), capacity)
    configured = _configured(config, topology, compiler, steps, queue, report)
    outcomes = [] if configured is None else [configured]
    outcomes += _compile_best(queue, compiler, steps, budget, outcomes, report)
    outcomes.sort(key=lambda each: each.order)
    best = next((each for each in outcomes if each.fits), None)
    return Search(
        config,
        topology,
        configured,
        outcomes,
        considered=len(estimates),
        too_large=len(estimates) - len(kept),
        smallest=(first, estimates[first].floor),
        left=queue.faster(best),
    )


def _configured(
    config: Config,
    topology: Topology,
    compiler: Compiler,
    steps: Steps,
    queue: _Queue,
    report: Callable[[Outcome], None],
) -> Outcome | None:
    """Compile the configuration as it is, for comparison."""
    try:
        step = untraced_step(config, make_mesh(config, topology.devices))
    except ConfigError:
        return None
    candidate = as_configured(config, step)
    steps = {**steps, candidate.mesh: step}
    result = _results(compiler, [candidate], steps)[0]
    queue.remove(result)
    report(result)
    return result


def _compile_best(
    queue: _Queue,
    compiler: Compiler,
    steps: Steps,
    budget: int,
    earlier: Sequence[Outcome],
    report: Callable[[Outcome], None],
) -> list[Outcome]:
    """Compile the most promising candidates until none can be faster."""
    outcomes: list[Outcome] = []
    while len(outcomes) + len(earlier) < budget:
        spare = [each for each in (*earlier, *outcomes) if each.has_spare]
        best = min(spare, key=lambda each: each.order, default=None)
        if not queue.waiting or (len(outcomes) >= LEAST and not queue.faster(best)):
            break
        remaining = budget - len(outcomes) - len(earlier)
        for result in _results(
            compiler, queue.next(min(compiler.jobs, remaining)), steps
        ):
            queue.remove(result)
            outcomes.append(result)
            report(result)
    return outcomes


def _results(
    compiler: Compiler, chosen: Sequence[Candidate], steps: Steps
) -> list[Outcome]:
    """Return outcomes from the cache, or compile them."""
    known = {each: compiler.cached(each, steps[each.mesh]) for each in chosen}
    missing = [(each, steps[each.mesh]) for each in chosen if known[each] is None]
    compiled = {each.candidate: each for each in compiler.compile(missing)}
    return [known[each] or compiled[each] for each in chosen]
