"""Policies of PSFT, iw-SFT and PriFT: per-token inputs from frozen parameters.

PSFT needs log π_old of each label, iw-SFT a weight per trajectory and PriFT π_ref of
each label. They are computed from parameters: of a snapshot of the student, of its
average, of the reference.
Parameters that change during training are part of the train state (`TrainState.held`),
sharded and saved like the student's; with LoRA they are adapters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from targetsft_jax.keys import between
from targetsft_jax.targets.arguments import whole_number
from targetsft_jax.targets.method import Hyper
from targetsft_jax.targets.trajectory import check_settings, trajectory_weight

Params = dict[str, Any]
Held = dict[str, Params]

OLD, AVERAGE = "old", "average"
STUDENT, REFERENCE = "student", "reference"

DECAY = Hyper(0.9, "Decay.", between(0, 1, closed="[)"), static=True)


@dataclass(frozen=True)
class Policy:
    """Base class, without parameters: all per-token inputs are columns of the data.

    Attributes:
        makes: name of the per-token input that the step computes.
        held: names of its parameters in the train state.
        reads: names of the parameters whose label log-probabilities `columns` needs.
    """

    makes: ClassVar[str | None] = None

    @property
    def held(self) -> tuple[str, ...]:
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    def start(self, params: Params) -> Held:
        """Policy parameters at step 0; traceable."""
        return {}

    def before(self, step: Array, params: Params, held: Held) -> Held:
        """Policy parameters during optimizer step `step`, from 0."""
        return held

    def after(self, params: Params, held: Held) -> Held:
        """Policy parameters after an update to `params`."""
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
    """The snapshot π_old of PSFT: in step s, the student before step k·⌊s/k⌋.

    Refreshes depend on the step number alone: skipped steps count.

    Attributes:
        refresh_every: k, in optimizer steps; with 1 the ratio is 1 in every step.

    Raises:
        ValueError: a refresh_every that is not a whole number of 1 or more.
    """

    refresh_every: int = 8

    makes: ClassVar[str | None] = "old_logprob"

    def __post_init__(self) -> None:
        whole_number("refresh_every", self.refresh_every, 1)

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
        is_refresh = step % self.refresh_every == 0
        return {OLD: jax.lax.cond(is_refresh, lambda: params, lambda: held[OLD])}

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        return {"old_logprob": logprob(OLD)}


@dataclass(frozen=True)
class ReferenceProbability(Policy):
    """Probability of each label under the frozen reference, for PriFT."""

    makes: ClassVar[str | None] = "reference_prob"

    @property
    def reads(self) -> tuple[str, ...]:
        return (REFERENCE,)

    def __str__(self) -> str:
        return "π_ref(y) of the reference"

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        # Rounding may leave a log-probability just above 0.
        return {"reference_prob": jnp.exp(jnp.minimum(logprob(REFERENCE), 0))}


@dataclass(frozen=True)
class Trajectory(Policy):
    """Trajectory weights q/π_ref of iw-SFT, with the frozen reference as π_ref.

    Attributes:
        average: True if q is an exponential average of the student; else q is the
            student.
        decay: decay d of the average, d·average + (1 − d)·student after each update.
        mode, temperature, clip: as in `targets.trajectory_weight`.

    Raises:
        ValueError: a setting outside its domain.
    """

    average: bool = False
    decay: float = 0.9
    mode: str = "mean"
    temperature: float = 1.0
    clip: tuple[float, float] = (0.0, 16.0)

    makes: ClassVar[str | None] = "trajectory_weight"

    def __post_init__(self) -> None:
        refusal = DECAY.refusal("decay", self.decay)
        if refusal is not None:
            raise ValueError(refusal)
        check_settings(self.mode, self.temperature, self.clip)

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
        # In bfloat16 an average would not follow small updates of the student.
        return {
            name: jax.tree.map(partial(jnp.array, dtype=jnp.float32), params)
            for name in self.held
        }

    def after(self, params: Params, held: Held) -> Held:
        def moved(average: Array, new: Array) -> Array:
            return average + (1 - self.decay) * (new.astype(jnp.float32) - average)

        return {name: jax.tree.map(moved, tree, params) for name, tree in held.items()}

    def columns(
        self, logprob: Callable[[str], Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        q, reference = map(logprob, self.reads)
        weight = trajectory_weight(
            q,
            reference,
            batch["segment_ids"],
            mode=self.mode,
            temperature=self.temperature,
            clip=self.clip,
            loss_mask=batch["loss_mask"],
        )
        return {"trajectory_weight": weight}
