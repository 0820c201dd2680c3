"""Sinks of metrics: TensorBoard and Weights & Biases."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from targetsft_jax.config.schema import LogConfig
from targetsft_jax.extras import import_extra
from targetsft_jax.storage.atomic import write_text
from targetsft_jax.storage.run_dir import RunDir


class Sink(Protocol):
    """Receiver of metrics, called in the order of the steps."""

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Record the metrics of a step: name -> value."""

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Record shares [BINS] of the target tokens in bins with edges [BINS + 1]."""

    def close(self) -> None:
        """Flush and release the sink."""


def make_sinks(
    config: LogConfig, run_dir: RunDir, start: int, about: Mapping[str, Any]
) -> list[Sink]:
    """Open TensorBoard and the sinks of the configuration.

    Args:
        config: section `log`; `wandb` adds a sink.
        run_dir: run directory.
        start: last step of earlier sessions.
        about: resolved configuration, shown at W&B.
    """
    sinks: list[Sink] = [TensorBoard(run_dir, start)]
    if config.wandb is not None:
        sinks.append(WandB(config.wandb, run_dir, about))
    return sinks


class TensorBoard:
    """Event files in `run_dir.tensorboard`.

    Args:
        run_dir: run directory.
        start: last step of earlier sessions; events of later steps are purged.
    """

    def __init__(self, run_dir: RunDir, start: int):
        # Imported here: it loads protobuf.
        from tensorboardX import SummaryWriter

        folder = str(run_dir.tensorboard)
        self._writer = SummaryWriter(folder, purge_step=start + 1)

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Write one scalar event per metric."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Write a histogram event without rebinning."""
        middle = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            name,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=float(shares.sum()),
            sum=float(shares @ middle),
            sum_squares=float(shares @ middle**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=shares.tolist(),
            global_step=step,
        )

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandB:
    """Weights & Biases run, continued by a resumed training.

    Args:
        project: W&B project.
        run_dir: run directory; its name is the name of the W&B run, whose local files
            it has.
        config: resolved configuration of the run.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, project: str, run_dir: RunDir, config: Mapping[str, Any]):
        user = f"log.wandb {project!r}"
        wandb: Any = import_extra("wandb", "wandb", user, "or set log.wandb to null")
        self._wandb = wandb
        path = run_dir.wandb_id
        run_id = path.read_text(encoding="utf-8").strip() if path.exists() else None
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            dir=str(run_dir.path),
            config=dict(config),
            id=run_id,
            resume="allow",
        )
        write_text(path, self._run.id + "\n")

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(row), step=step)

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Log a histogram without rebinning."""
        bins = self._wandb.Histogram(np_histogram=(shares, edges))
        self._run.log({name: bins}, step=step)

    def close(self) -> None:
        """Finish the W&B session."""
        self._run.finish()
