"""The loss and its metrics on held-out rows, with nothing changed by them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.config.schema import VALIDATION_PREFIX
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.training.step import Metrics, StepSpec, TrainState, loss_and_metrics


@dataclass(frozen=True)
class Validation:
    """What is measured during a training, and how often.

    Attributes:
        dataset: held-out rows.
        every: optimizer steps between two measurements; the last step has one too.
    """

    dataset: Dataset
    every: int


def make_measure(
    spec: StepSpec, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, Any], Mapping[str, Array]], Metrics]:
    """The jitted (state, frozen, batch [B, L]) -> sums over the batch's target tokens.

    The very loss of the training step, forward only. Sums [] float32, and
    `target_tokens`.
    """
    quiet = replace(spec, histograms=False)

    def measure(
        state: TrainState, frozen: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> Metrics:
        one = jnp.ones((), jnp.float32)
        models = {**frozen, **state.held}
        _, sums = loss_and_metrics(quiet, mesh, state.params, models, batch, one)
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
    """Means over all target tokens of the held-out rows, as `validation_NAME`.

    Args:
        measure: from `make_measure`.
        state, frozen: what is measured.
        dataset: the held-out rows; the last batch is filled up with empty ones.
        mesh: the device mesh.
        rows: of a batch; a multiple of what the mesh spreads rows over.
    """
    sums: dict[str, float] = {}
    for batch in _batches(dataset, rows):
        made = jax.device_get(measure(state, frozen, meshes.put_rows(batch, mesh)))
        for name, value in made.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    targets = max(sums.pop("target_tokens"), 1.0)
    return {
        f"{VALIDATION_PREFIX}{name}": value / targets for name, value in sums.items()
    }


def _batches(dataset: Dataset, rows: int) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, dataset.rows, rows):
        part = dataset.take(np.arange(first, min(first + rows, dataset.rows)))
        lacking = rows - len(part["tokens"])
        yield {k: np.pad(x, [(0, lacking), (0, 0)]) for k, x in part.items()}
