"""Policies that a method weighs the student against, kept and used by the step itself.

PSFT reads log π_old of each label, and iw-SFT a weight for each trajectory. Both come
from parameters: of the student some steps ago, of its average, of the reference. Those
that training changes are part of its state (`TrainState.held`), lie as the student's
parameters lie, and are saved with them. Over adapters they are adapters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from targetsft_jax.targets.trajectory import trajectory_weight

Params = dict[str, Any]
Held = dict[str, Params]

OLD, AVERAGE = "old", "average"
STUDENT, REFERENCE = "student", "reference"


@dataclass(frozen=True)
class Policy:
    """None: nothing is held, and all per-token inputs come with the data.

    Attributes:
        makes: the per-token input that the step makes.
        held: names of the parameters that the state holds for it.
        reads: names whose label log-probabilities it asks for in each micro-batch.
    """

    makes: ClassVar[str | None] = None

    @property
    def held(self) -> tuple[str, ...]:
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def start(self, params: Params) -> Held:
        """What is held at step 0; traceable."""
        return {}

    def before(self, step: Array, params: Params, held: Held) -> Held:
        """What is held during a step, by its number from 0 and its parameters."""
        return held

    def after(self, params: Params, held: Held) -> Held:
        """What is held after an update to `params`."""
        return held

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The per-token inputs [B, L] of a micro-batch.

        Args:
            logprob: a name of `reads` -> log-probabilities of the labels [B, L].
            batch: the micro-batch.
        """
        return {}


FROM_DATA = Policy()


@dataclass(frozen=True)
class Snapshot(Policy):
    """PSFT's π_old: in step s, the student as it was before step k·⌊s/k⌋.

    It depends on the step's number alone: steps that are skipped count, and do not put
    a refresh off.

    Attributes:
        refresh_every: k, optimizer steps; with 1 the ratio is 1 in every step.
    """

    refresh_every: int = 8

    makes: ClassVar[str | None] = "old_logprob"

    @property
    def held(self) -> tuple[str, ...]:
        return (OLD,)

    @property
    def reads(self) -> tuple[str, ...]:
        return (OLD,)

    def __str__(self) -> str:
        return f"π_old refreshed every {self.refresh_every} steps"

    def start(self, params: Params) -> Held:
        return {OLD: jax.tree.map(jnp.copy, params)}

    def before(self, step: Array, params: Params, held: Held) -> Held:
        due = step % self.refresh_every == 0
        return {OLD: jax.lax.cond(due, lambda: params, lambda: held[OLD])}

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        return {"old_logprob": logprob(OLD)}


@dataclass(frozen=True)
class Trajectory(Policy):
    """iw-SFT's weights q/π_ref of trajectories; π_ref is the frozen reference.

    Attributes:
        average: whether q is an average of the student in place of itself.
        decay: of that average, d·average + (1 − d)·student after each update.
        mode, temperature, clip: as in `targets.trajectory_weight`.
    """

    average: bool = False
    decay: float = 0.9
    mode: str = "mean"
    temperature: float = 1.0
    clip: tuple[float, float] = (0.0, 16.0)

    makes: ClassVar[str | None] = "trajectory_weight"

    @property
    def held(self) -> tuple[str, ...]:
        return (AVERAGE,) if self.average else ()

    @property
    def reads(self) -> tuple[str, ...]:
        return (AVERAGE if self.average else STUDENT, REFERENCE)

    def __str__(self) -> str:
        q = f"q = average of decay {self.decay:g}" if self.average else "q = π"
        return (
            f"{q}, mode={self.mode}, temperature={self.temperature:g}, "
            f"clip={list(self.clip)}"
        )

    def start(self, params: Params) -> Held:
        # In bfloat16 an average stands still where the student moves by a rounding.
        return {
            name: jax.tree.map(partial(jnp.array, dtype=jnp.float32), params)
            for name in self.held
        }

    def after(self, params: Params, held: Held) -> Held:
        def mixed(average: Array, new: Array) -> Array:
            return average + (1 - self.decay) * (new.astype(jnp.float32) - average)

        return {name: jax.tree.map(mixed, tree, params) for name, tree in held.items()}

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        own, reference = map(logprob, self.reads)
        weight = trajectory_weight(
            own,
            reference,
            batch["segment_ids"],
            mode=self.mode,
            temperature=self.temperature,
            clip=self.clip,
            loss_mask=batch["loss_mask"],
        )
        return {"trajectory_weight": weight}
