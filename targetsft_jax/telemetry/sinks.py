"""Sinks of metrics: TensorBoard and Weights & Biases."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from targetsft_jax.config.schema import VALIDATION_PREFIX, LogConfig
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

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Record scores of models: tag -> value, after `step`."""

    def close(self) -> None:
        """Flush and release the sink."""


def tag(metric: str) -> str:
    """Tag of a metric: `val/nll` for validation_nll, else `train/nll`."""
    group = "val" if metric.startswith(VALIDATION_PREFIX) else "train"
    return f"{group}/{metric.removeprefix(VALIDATION_PREFIX)}"


def record_scores(
    config: LogConfig,
    run_dir: RunDir,
    step: int,
    scores: Mapping[str, float],
    about: Mapping[str, Any],
) -> None:
    """Record scores of a finished training: tag -> value.

    Args:
        config, run_dir, about: as `make_sinks`.
        step: last optimizer step of the run.
        scores: values by tags such as `eval/average_at_k/dft`.
    """
    for sink in make_sinks(config, run_dir, step, about, ".scores"):
        sink.scores(step, scores)
        sink.close()


def make_sinks(
    config: LogConfig,
    run_dir: RunDir,
    start: int,
    about: Mapping[str, Any],
    suffix: str = "",
) -> list[Sink]:
    """Open TensorBoard and the sinks of the configuration.

    Args:
        config: section `log`; `wandb` adds a sink.
        run_dir: run directory.
        start: last step of earlier sessions.
        about: resolved configuration, shown at W&B.
        suffix: end of the name of the event file. A file of the same second and suffix
            would be replaced.
    """
    sinks: list[Sink] = [TensorBoard(run_dir, start, suffix)]
    if config.wandb is not None:
        sinks.append(WandB(config.wandb, run_dir, about))
    return sinks


class TensorBoard:
    """Event files in `run_dir.tensorboard`.

    Args:
        run_dir: run directory.
        start: last step of earlier sessions; events of later steps are purged.
        suffix: end of the name of the event file.
    """

    def __init__(self, run_dir: RunDir, start: int, suffix: str = ""):
        # Imported here: it loads protobuf.
        from tensorboardX import SummaryWriter

        folder = str(run_dir.tensorboard)
        self._writer = SummaryWriter(
            folder, purge_step=start + 1, filename_suffix=suffix
        )

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Write one scalar event per metric."""
        for name, value in row.items():
            self._writer.add_scalar(tag(name), value, step)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write one scalar event per score."""
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step)

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Write a histogram event without rebinning."""
        middle = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            f"histograms/{name}",
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
        self._run.log({tag(name): value for name, value in row.items()}, step=step)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores into the summary of the W&B run."""
        self._run.summary.update(dict(scores))

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Log a histogram without rebinning."""
        bins = self._wandb.Histogram(np_histogram=(shares, edges))
        self._run.log({f"histograms/{name}": bins}, step=step)

    def close(self) -> None:
        """Finish the W&B session."""
        self._run.finish()
