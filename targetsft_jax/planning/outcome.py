"""Outcomes of candidates: the numbers of a plan, compiled once and cached on disk."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from targetsft_jax.config.load import to_yaml
from targetsft_jax.config.schema import Config
from targetsft_jax.planning.abstract_step import AbstractStep
from targetsft_jax.planning.candidates import Candidate
from targetsft_jax.planning.plan import Plan, Roofline, make_plan
from targetsft_jax.planning.topology import Topology, get_topology, prepare_jax
from targetsft_jax.storage import atomic, json_file
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.storage.remote_cache import cache_folder
from targetsft_jax.versions import TRAINING, installed_versions

SPARE = 1 / 16
"""Fraction of device memory that a recommended step keeps free for other programs."""


@dataclass(frozen=True)
class Outcome:
    """Numbers of a compiled candidate, per device.

    Attributes:
        candidate: keys.
        needed, capacity: GiB; the capacity is None if it is unknown.
        executed: FLOPs per step, recomputation included.
        sent: bytes sent per step.
        roofline: bounds of the step time; None if the rates are unknown, or if the
            compiler ran out of memory.
        mfu, tokens_per_second: upper bounds, under the same conditions.
        compile_seconds: wall time of the compilation.
        error: message of the compiler, if it refused the program.
    """

    candidate: Candidate
    needed: float
    capacity: float | None
    executed: float
    sent: int = 0
    roofline: Roofline | None = None
    mfu: float | None = None
    tokens_per_second: float | None = None
    compile_seconds: float = 0.0
    error: str = ""

    @property
    def fits(self) -> bool:
        """True if the compiled program fits on an otherwise empty device."""
        within = self.capacity is None or self.needed <= self.capacity
        return not self.error and within

    @property
    def has_spare(self) -> bool:
        """True if it fits with memory for other programs."""
        if self.capacity is None:
            return self.fits
        return self.fits and self.needed <= self.capacity * (1 - SPARE)

    @property
    def limit(self) -> str:
        """Limit of the step: memory, or the resource with the largest bound."""
        if self.error:
            return "refused"
        if not self.fits:
            return "memory"
        if self.roofline is None:
            return "unknown"
        bounds = asdict(self.roofline)
        name = max(bounds, key=lambda each: bounds[each])
        return name if name in ("compute", "host") else name.upper()

    @property
    def order(self) -> tuple[float, ...]:
        """Key by which outcomes are ranked, the best first."""
        if self.roofline is None:
            bound, total = self.executed, float(self.sent)
        else:
            # Bounds that are equal up to rounding differ in what must overlap.
            bound = round(self.roofline.seconds, 3)
            total = sum(asdict(self.roofline).values())
        return (not self.has_spare, not self.fits, bound, total, self.needed)


def outcome(plan: Plan, candidate: Candidate) -> Outcome:
    """Return the numbers of a plan."""
    devices = len(plan.topology.devices)
    pace = plan.tokens_per_step / plan.roofline.seconds if plan.roofline else None
    traffic = {} if plan.cost is None else plan.cost.traffic
    return Outcome(
        candidate=candidate,
        needed=plan.memory.needed,
        capacity=plan.memory.capacity,
        executed=plan.flops.executed * plan.tokens_per_step / devices,
        sent=sum(each.bytes for each in traffic.values()),
        roofline=plan.roofline,
        mfu=plan.mfu_bound,
        tokens_per_second=pace,
        compile_seconds=plan.compile_seconds,
    )


@dataclass(frozen=True)
class Compiler:
    """Compilations of candidates, each done once per configuration and versions.

    Attributes:
        config: configuration whose keys the candidates replace.
        topology: devices.
        capacity: GiB per device; None: that of the topology's devices.
        jobs: processes that compile at the same time; with one, this process does.
    """

    config: Config
    topology: Topology
    capacity: float | None = None
    jobs: int = 1

    def cached(self, candidate: Candidate, step: AbstractStep) -> Outcome | None:
        """Return the outcome of an earlier compilation, or None.

        Args:
            candidate: keys.
            step: step of the candidate's mesh.
        """
        path = self._path(candidate, step)
        if not path.is_file():
            return None
        tree: dict[str, Any] = dict(json_file.read_object(path))
        roofline = tree.pop("roofline")
        return Outcome(
            **tree | {"candidate": candidate},
            roofline=Roofline(**roofline) if roofline else None,
        )

    def compile(self, tasks: list[tuple[Candidate, AbstractStep]]) -> Iterator[Outcome]:
        """Compile candidates; yield their outcomes in the same order."""
        arguments = [
            (each, dataclasses.replace(self.config), self.topology, self.capacity)
            for each, _ in tasks
        ]
        if self.jobs == 1 or len(tasks) == 1:
            results: Any = (_compile(*each) for each in arguments)
            yield from self._stored(tasks, results)
            return
        named = [
            (each, config, topology.name, topology.slices, capacity)
            for each, config, topology, capacity in arguments
        ]
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            yield from self._stored(tasks, pool.map(_compile_by_name, named))

    def _stored(
        self, tasks: list[tuple[Candidate, AbstractStep]], results: Any
    ) -> Iterator[Outcome]:
        for (candidate, step), result in zip(tasks, results):
            path = self._path(candidate, step)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json.dumps(asdict(result), indent=1) + "\n")
            yield result

    def _path(self, candidate: Candidate, step: AbstractStep) -> Path:
        config = dataclasses.replace(
            candidate.applied(self.config), run_dir="", cache_dir=""
        )
        models = [repr(step.spec.student), *map(repr, step.spec.frozen.items())]
        key = json_digest(
            {
                "config": to_yaml(config),
                "models": [*models, repr(step.spec.stored), step.spec.vocab_size],
                "topology": [self.topology.name, self.topology.slices],
                "capacity": self.capacity,
                "versions": installed_versions((*TRAINING, "libtpu")),
                "sources": _sources(),
            }
        )
        return cache_folder(self.config.cache_dir) / "plans" / f"{key}.json"


def _compile(
    candidate: Candidate, config: Config, topology: Topology, capacity: float | None
) -> Outcome:
    try:
        plan = make_plan(candidate.applied(config), topology, capacity)
    except ValueError as error:
        # A program that the compiler refuses, such as a host transfer on a platform
        # without one, is no candidate.
        return Outcome(candidate, 0.0, capacity, 0.0, error=str(error).split("\n")[0])
    return outcome(plan, candidate)


def _compile_by_name(
    task: tuple[Candidate, Config, str, int, float | None],
) -> Outcome:
    """Compile in a process of its own, which looks up the topology itself."""
    candidate, config, name, slices, capacity = task
    prepare_jax(name)
    return _compile(candidate, config, get_topology(name, slices), capacity)


def _sources() -> str:
    """Return a digest of the package, whose programs change with it."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
