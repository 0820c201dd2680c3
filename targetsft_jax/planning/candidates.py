"""Candidates of a search: meshes, rematerialisation, micro-batches, groups, kernels."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.models.remat import REMAT_POLICIES
from targetsft_jax.parallel import vocabulary
from targetsft_jax.parallel.mesh import platform, row_shards
from targetsft_jax.planning.abstract_step import AbstractStep, untraced_step
from targetsft_jax.planning.topology import Topology
from targetsft_jax.training.micro_batch import vocabulary_groups
from targetsft_jax.training.step_spec import make_mesh

Axes = tuple[int, int, int, int]
"""Sizes of the mesh axes data, fsdp, context and tensor."""

MOST_TENSOR = 8
"""Devices that share a row's heads at most: beyond, their products are too narrow."""


@dataclass(frozen=True)
class Candidate:
    """Keys that a search changes; the batch size and the results stay the same.

    Attributes:
        data, fsdp, context, tensor: sizes of the mesh axes.
        accumulation_steps: micro-batches per optimizer step.
        remat: rematerialisation policy.
        attention: attention kernel.
        vocab_group: devices that share the vocabulary; None: chosen by size.
    """

    data: int
    fsdp: int
    context: int
    tensor: int
    accumulation_steps: int
    remat: str
    attention: str = "auto"
    vocab_group: int | None = None

    @property
    def mesh(self) -> Axes:
        """Sizes of the mesh axes, in their order."""
        return self.data, self.fsdp, self.context, self.tensor

    def keys(self) -> dict[str, Any]:
        """Dotted configuration keys and their values."""
        return {
            "mesh.data": self.data,
            "mesh.fsdp": self.fsdp,
            "mesh.context": self.context,
            "mesh.tensor": self.tensor,
            "mesh.vocab_group": self.vocab_group,
            "train.accumulation_steps": self.accumulation_steps,
            "train.remat": self.remat,
            "train.attention": self.attention,
        }

    def applied(self, config: Config) -> Config:
        """Return a configuration with the keys of this candidate."""
        sections: dict[str, dict[str, Any]] = {"mesh": {}, "train": {}}
        for path, value in self.keys().items():
            section, _, name = path.partition(".")
            sections[section][name] = value
        return replace(
            config,
            mesh=replace(config.mesh, **sections["mesh"]),
            train=replace(config.train, **sections["train"]),
        )


def as_configured(config: Config, step: AbstractStep) -> Candidate:
    """Return the keys of a configuration as a candidate, with its resolved mesh."""
    train = config.train
    return Candidate(
        **{axis: step.mesh.shape[axis] for axis in step.mesh.axis_names},
        accumulation_steps=train.accumulation_steps,
        remat=step.spec.numerics.remat,
        attention=train.attention,
        vocab_group=config.mesh.vocab_group,
    )


def steps_by_mesh(config: Config, topology: Topology) -> Mapping[Axes, AbstractStep]:
    """Return a step, not traced, for each mesh that a run would accept.

    Its micro-batches have one row per device; `candidates` has the others.
    """
    steps = {}
    for mesh in _meshes(len(topology.devices), topology.slices):
        rows = config.train.batch_size // (mesh[0] * mesh[1])
        if rows == 0 or config.train.batch_size % (mesh[0] * mesh[1]):
            continue
        first = Candidate(*mesh, accumulation_steps=rows, remat="full")
        try:
            applied = first.applied(config)
            made = make_mesh(applied, topology.devices)
            step = untraced_step(applied, made)
        except ConfigError:
            # A kernel, the vocabulary or the rows do not divide over this mesh.
            continue
        models = (step.spec.student, *step.spec.frozen.values())
        sizes = [n for m in models for n in (m.num_heads, m.intermediate_size)]
        if all(size % mesh[3] == 0 for size in sizes):
            steps[mesh] = step
    return steps


def candidates(
    config: Config, steps: Mapping[Axes, AbstractStep]
) -> Iterator[Candidate]:
    """Yield all candidates of the meshes of `steps_by_mesh`."""
    for mesh, step in steps.items():
        kind = platform(step.mesh)
        policies = [
            name
            for name, policy in REMAT_POLICIES.items()
            if kind == "tpu" or not policy.on_host
        ]
        # `auto` is the first that serves the model; the portable kernel always does.
        kernels = ["auto", "xla"] if step.kernel != "xla" else ["auto"]
        shards = row_shards(step.mesh)
        rows = config.train.batch_size // shards
        parts = [a for a in range(1, rows + 1) if rows % a == 0]
        for number, remat, kernel in itertools.product(parts, policies, kernels):
            for group in _groups(step, number):
                yield Candidate(*mesh, number, remat, kernel, group)


def group_size(step: AbstractStep, accumulation_steps: int) -> int:
    """Return the devices of a vocabulary group, as a step chooses them by size."""
    tokens = step.batch["tokens"].size // accumulation_steps
    groups = vocabulary_groups(step.spec, step.mesh, tokens).shape
    return groups["fsdp"] * groups["context"]


def _groups(step: AbstractStep, accumulation_steps: int) -> list[int | None]:
    """Vocabulary groups: the one chosen by size, and the next smaller and larger."""
    sizes = vocabulary.group_sizes(step.mesh)
    at = sizes.index(group_size(step, accumulation_steps))
    return [None, *sizes[max(0, at - 1) : at], *sizes[at + 1 : at + 2]]


def _meshes(devices: int, slices: int) -> Iterator[Axes]:
    """Yield meshes of all devices; slices are joined along data."""
    for tensor in _divisors(devices):
        if tensor > MOST_TENSOR:
            continue
        for context in _divisors(devices // tensor):
            rest = devices // tensor // context
            for data in _divisors(rest):
                if data % slices == 0:
                    yield data, rest // data, context, tensor


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
