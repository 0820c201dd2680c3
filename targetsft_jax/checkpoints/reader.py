"""Locate a saved checkpoint and read its parameters, without the run that wrote it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.layered_params import open_params
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint.

    Attributes:
        run_dir: the run's directory.
        step: optimizer steps taken.
    """

    run_dir: RunDir
    step: int

    @property
    def folder(self) -> Path:
        """RUN/checkpoints/STEP."""
        return self.run_dir.checkpoints / str(self.step)

    def params(self) -> dict[str, Any]:
        """Open the parameters for reading one layer at a time.

        Returns:
            The tree of `init_params` with `StoredLeaf` leaves.

        Raises:
            ValueError: no readable parameters.
        """
        return open_params(self.folder / "params")

    def load(self, abstract: Any) -> Any:
        """Restore the parameters onto devices; each process reads its shards.

        Args:
            abstract: the tree of `init_params` as ShapeDtypeStructs with shardings.
        """
        with ocp.CheckpointManager(self.run_dir.checkpoints.absolute()) as manager:
            item = ocp.args.StandardRestore(abstract)
            args = ocp.args.Composite(params=item)
            return manager.restore(self.step, args=args).params


def find_checkpoint(path: str | Path, step: int | None = None) -> StoredCheckpoint:
    """Find the checkpoint at a path.

    Args:
        path: a run directory (its newest checkpoint, or that of `step`), or one of its
            checkpoints, `RUN/checkpoints/STEP`.
        step: step of the checkpoint; only with a run directory.

    Raises:
        FileNotFoundError: the path is neither, or has no such complete checkpoint.
        ValueError: both a checkpoint and a step are specified.
    """
    folder = user_path(path).absolute()
    if _is_checkpoint(folder):
        if step is not None:
            raise ValueError(
                f"{path} is a checkpoint, and --step {step} names another one; pass "
                "the run directory, or omit --step"
            )
        folder, step = folder.parents[1], int(folder.name)
    run_dir = RunDir(folder)
    steps = checkpoint_steps(run_dir)
    if not steps:
        name = run_dir.checkpoints.name
        raise FileNotFoundError(
            f"{path} holds no complete checkpoint (expected {name}/STEP/params in it; "
            f"found: {_listing(folder)}); pass a run directory or RUN/{name}/STEP"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"{folder} has no complete checkpoint {step}; it has "
            f"{', '.join(map(str, steps))}"
        )
    return StoredCheckpoint(run_dir, steps[-1] if step is None else step)


def is_run_path(path: Path) -> bool:
    """True for a run directory or checkpoint, False for a Hugging Face folder."""
    if _is_checkpoint(path.absolute()):
        return True
    return not (path / "config.json").exists() and bool(checkpoint_steps(RunDir(path)))


def checkpoint_steps(run_dir: RunDir) -> list[int]:
    """Steps of a run's complete checkpoints, in order; empty for any other folder."""
    # A checkpoint has a temporary name until it is complete.
    paths = run_dir.checkpoints.glob("*/params/_METADATA")
    names = (path.parents[1].name for path in paths)
    return sorted(int(name) for name in names if name.isdecimal())


def _is_checkpoint(folder: Path) -> bool:
    """True if an absolute path is of the form RUN/checkpoints/STEP."""
    parents = folder.parents
    if len(parents) < 2 or not folder.name.isdecimal():
        return False
    return folder.parent == RunDir(parents[1]).checkpoints


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + ("…" if len(names) > 6 else "") or "nothing"
