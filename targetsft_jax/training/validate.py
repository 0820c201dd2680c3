"""Held-out loss and metrics during training."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.config.schema import VALIDATION_PREFIX, TrainConfig
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import preemption
from targetsft_jax.telemetry.telemetry import Telemetry
from targetsft_jax.training.micro_batch import Metrics, StepSpec, loss_and_metrics
from targetsft_jax.training.state import TrainState


@dataclass(frozen=True)
class Validation:
    """Held-out rows and their cadence.

    Attributes:
        dataset: held-out rows.
        every: optimizer steps between measurements; the last step is always measured.
    """

    dataset: Dataset
    every: int


class Validator:
    """Measure the held-out loss during training.

    Args:
        spec, mesh: arguments of `make_train_step`.
        validation: rows and cadence; None disables validation.
        config: batch size and accumulation steps.
        steps: last optimizer step of the run.
    """

    def __init__(
        self,
        spec: StepSpec,
        mesh: Mesh,
        validation: Validation | None,
        config: TrainConfig,
        steps: int,
    ):
        self._validation, self._mesh, self._steps = validation, mesh, steps
        self._measure = make_measure(spec, mesh)
        self._rows = config.batch_size // config.accumulation_steps

    def measure(
        self,
        step: int,
        state: TrainState,
        frozen: Mapping[str, Any],
        telemetry: Telemetry,
    ) -> dict[str, float]:
        """Return `validation_NAME` metrics; empty for a step without validation."""
        validation = self._validation
        if validation is None or (step % validation.every and step != self._steps):
            return {}
        # Otherwise the time of the pending step would count as validation.
        jax.block_until_ready(state.step)
        with telemetry.lost_to("validation"):
            return validate(
                self._measure,
                state,
                frozen,
                validation.dataset,
                self._mesh,
                self._rows,
            )


def make_measure(
    spec: StepSpec, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, Any], Mapping[str, Array]], Metrics]:
    """Build the jitted (state, frozen, batch [B, L]) -> metrics.

    The metrics of the train step, forward only: sums over the target tokens, [] f32,
    and their number `target_tokens`.
    """
    scalars_only = replace(spec, histograms=False)

    def measure(
        state: TrainState, frozen: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> Metrics:
        one = jnp.ones((), jnp.float32)
        models = {**frozen, **state.held}
        # `state.step` steps are done: the values of the last of them.
        scheduled = spec.scheduled(state.step)
        _, sums = loss_and_metrics(
            scalars_only, mesh, state.params, models, batch, one, scheduled
        )
        targets = jnp.sum(batch["loss_mask"].astype(jnp.float32))
        return sums | {"target_tokens": targets}

    return jax.jit(measure, out_shardings=meshes.replicated(mesh))


def validate(
    measure: Callable[..., Metrics],
    state: TrainState,
    frozen: Mapping[str, Any],
    dataset: Dataset,
    mesh: Mesh,
    rows: int,
) -> dict[str, float]:
    """Average the metrics over all target tokens of the held-out rows.

    Args:
        measure: result of `make_measure`.
        state, frozen: arguments of the train step.
        dataset: held-out rows; the last batch is padded with empty rows.
        mesh: device mesh.
        rows: rows per batch; a multiple of the row shards of the mesh.

    Returns:
        `validation_NAME` -> mean.
    """
    totals: dict[str, float] = {}
    for batch in _batches(dataset, rows):
        preemption.check()
        sums = jax.device_get(measure(state, frozen, meshes.put_rows(batch, mesh)))
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    targets = max(totals.pop("target_tokens"), 1.0)
    return {f"{VALIDATION_PREFIX}{name}": x / targets for name, x in totals.items()}


def _batches(dataset: Dataset, rows: int) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, dataset.rows, rows):
        part = dataset.take(np.arange(first, min(first + rows, dataset.rows)))
        padding = rows - len(part["tokens"])
        yield {
            name: np.pad(x, [(0, padding), *[(0, 0)] * (x.ndim - 1)])
            for name, x in part.items()
        }
