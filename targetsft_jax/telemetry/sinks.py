"""Where a run's numbers go beside metrics.jsonl: TensorBoard, and W&B if asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from targetsft_jax.config.schema import LogConfig


class Sink(Protocol):
    """Takes the numbers of steps in their order."""

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Numbers of a step by name."""

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        """Shares [BINS] of the step's target tokens between edges [BINS + 1]."""

    def close(self) -> None:
        """Flush everything."""


def make_sinks(
    config: LogConfig, run_dir: Path, start: int, about: Mapping[str, Any]
) -> list[Sink]:
    """TensorBoard, and what the configuration asks for.

    Args:
        config: its `wandb` is read.
        run_dir, start: of the run, and the steps done before.
        about: what the run was asked for.
    """
    sinks: list[Sink] = [TensorBoard(run_dir, start)]
    if config.wandb is not None:
        sinks.append(WandB(config.wandb, run_dir, about))
    return sinks


class TensorBoard:
    """Event files in RUN/tensorboard.

    Args:
        run_dir: the run's.
        start: steps done before; later ones of an interrupted run are purged.
    """

    def __init__(self, run_dir: Path, start: int):
        # Not at the top: it would load protobuf into every import of the package.
        from tensorboardX import SummaryWriter

        folder = str(run_dir / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=start + 1)

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
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
        self._writer.close()


class WandB:
    """A run at Weights & Biases, which a resumed training goes on with.

    Args:
        project: its project there.
        run_dir: the run's; its last part names the run, and its files lie there.
        config: what the run was asked for, shown beside its numbers.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise ValueError(
                f"log.wandb is {project!r} and the package wandb is not installed; "
                'pip install "targetsft-jax[wandb]", or set log.wandb to null'
            ) from None
        self._wandb = wandb
        kept = run_dir / "wandb_id"
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            dir=str(run_dir),
            config=dict(config),
            id=known,
            resume="allow",
        )
        kept.write_text(self._run.id + "\n", encoding="utf-8")

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)

    def histogram(
        self, step: int, name: str, shares: np.ndarray, edges: np.ndarray
    ) -> None:
        made = self._wandb.Histogram(np_histogram=(shares, edges))
        self._run.log({name: made}, step=step)

    def close(self) -> None:
        self._run.finish()
