"""Locate a saved checkpoint and read its parameters, without the run that wrote it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from targetsft_jax.checkpoints.checksums import (
    array_checksums,
    compare_checksums,
    host_checksum,
    path_name,
)
from targetsft_jax.checkpoints.commit import atomicity, checkpoint_steps, is_step
from targetsft_jax.checkpoints.layered_params import open_params, unreadable
from targetsft_jax.checkpoints.provenance import digest
from targetsft_jax.checkpoints.remote import local_model
from targetsft_jax.storage.location import Location, absolute, is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

PROVENANCE = "provenance"
"""The field of `position` that holds the digest of the provenance."""


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
    def folder(self) -> Location:
        """RUN/checkpoints/STEP, or the folder STEP of `checkpoint_dir`."""
        return self.run_dir.checkpoints / str(self.step)

    def metadata(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read position and provenance; empty for an imported model.

        Raises:
            ValueError: folder, position and provenance are not of one checkpoint, or
                one of them is damaged.
        """
        try:
            position, provenance = read_metadata(self.folder)
        except ValueError as error:
            raise ValueError(
                f"{self.folder} cannot be used: {error}. Use another checkpoint of "
                "the run"
            ) from None
        if (self.folder / "optimizer").exists() and "step" not in position:
            raise ValueError(
                f"{self.folder / 'position'} is missing or damaged, so the parameters "
                "cannot be verified. Use another checkpoint of the run"
            )
        return position, provenance

    def params(self) -> dict[str, Any]:
        """Open the parameters for reading one layer at a time.

        Returns:
            The tree of `init_params` with `StoredLeaf` leaves.

        Raises:
            ValueError: no readable parameters.
        """
        return open_params(self.folder / "params")

    def verify(self, params: dict[str, Any]) -> None:
        """Compare the result of `params` with the checksums, in a reading of its own.

        Raises:
            ValueError: some parameters differ; names up to three.
        """
        if saved := self._checksums():
            leaves = jax.tree_util.tree_leaves_with_path(params)
            current = {path_name(k): host_checksum(leaf.parts()) for k, leaf in leaves}
            self._compare(current, saved)

    def _checksums(self) -> dict[str, int]:
        """Stored checksum of each parameter; empty for an imported model."""
        stored = read_json_item(self.folder, "position").get("arrays", {})
        if not isinstance(stored, dict):
            raise ValueError(
                f"{self.folder / 'position'}: arrays is {type(stored).__name__}; "
                "expected a mapping. Use another checkpoint of the run"
            )
        prefix = "params."
        return {
            key.removeprefix(prefix): value
            for key, value in stored.items()
            if key.startswith(prefix)
        }

    def _compare(self, current: Mapping[str, int], saved: Mapping[str, int]) -> None:
        try:
            compare_checksums(current, saved)
        except ValueError as error:
            raise ValueError(
                f"{self.folder} is damaged: {error}. Use another checkpoint of the run"
            ) from None

    def load(self, abstract: Any) -> Any:
        """Restore the parameters onto devices; each process reads its shards.

        They are verified if they are restored in their stored dtypes.

        Args:
            abstract: the tree of `init_params` as ShapeDtypeStructs with shardings.

        Raises:
            ValueError: damaged files, or a parameter differs from its checksum.
        """
        args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
        try:
            folder = absolute(self.run_dir.checkpoints)
            options = ocp.CheckpointManagerOptions(**atomicity(folder))
            with ocp.CheckpointManager(folder, options=options) as manager:
                params = manager.restore(self.step, args=args).params
        except jax.errors.JaxRuntimeError:
            # Of the devices, such as a lack of memory.
            raise
        except Exception as error:  # noqa: BLE001
            raise unreadable(self.folder / "params", error) from None
        saved = self._checksums()
        stored = jax.tree.map(lambda leaf: leaf.dtype, self.params()) if saved else None
        if stored == jax.tree.map(lambda leaf: leaf.dtype, abstract):
            self._compare(array_checksums(params), saved)
        return params


def find_checkpoint(path: str | Path, step: int | None = None) -> StoredCheckpoint:
    """Find the checkpoint at a path.

    Args:
        path: a run directory (its newest checkpoint, or that of `step`), or one of its
            checkpoints, `RUN/checkpoints/STEP`.
        step: step of the checkpoint; only with a run directory.

    Raises:
        FileNotFoundError: the path is neither, or has no such complete checkpoint.
        ValueError: both a checkpoint and a step are specified, or the folder's name is
            not the step of its content.
    """
    folder = (local_model(str(path)) if is_url(path) else user_path(path)).absolute()
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
    stored = StoredCheckpoint(run_dir, steps[-1] if step is None else step)
    stored.metadata()
    return stored


def check_path(folder: Location) -> None:
    """Check that Orbax can write checkpoints below a folder.

    Orbax expands the characters * ? [ and a backslash anywhere in the path of a
    checkpoint when it completes it; if nothing matches, the checkpoint is unreadable.

    Raises:
        ValueError: the absolute path has such a character, or is not text.
    """
    path = str(absolute(folder))
    found = sorted({character for character in path if character in "*?[\\"})
    if found:
        raise ValueError(
            f"the path {path} has {' '.join(found)}, and checkpoints in it could not "
            "be read again; choose a path without * ? [ and backslashes"
        )
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError(f"the path {path!r} is not UTF-8; choose another path")


def read_metadata(folder: Location) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the position and the provenance of a checkpoint; empty if it lacks them.

    Args:
        folder: RUN/checkpoints/STEP.

    Raises:
        ValueError: one is damaged, or they and the folder's name are not of one
            checkpoint.
    """
    position = read_json_item(folder, "position")
    provenance = read_json_item(folder, "provenance")
    if "step" in position and position["step"] != int(folder.name):
        raise ValueError(
            f"it holds the state of step {position['step']}: its folder was renamed "
            "or copied"
        )
    # Positions of version 0.1.0 have no digest.
    if PROVENANCE in position and position[PROVENANCE] != digest(provenance):
        raise ValueError("its provenance is damaged, or that of another checkpoint")
    return position, provenance


def read_json_item(folder: Location, name: str) -> dict[str, Any]:
    """Read a JSON item of a checkpoint; empty if the checkpoint lacks it.

    Args:
        folder: RUN/checkpoints/STEP.
        name: "position" or "provenance".

    Raises:
        ValueError: the item is damaged.
    """
    path = folder / name / "metadata"
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is {type(tree).__name__}; expected a mapping")
    return tree


def is_run_path(path: Path) -> bool:
    """True for a run directory or checkpoint, False for a Hugging Face folder."""
    if _is_checkpoint(path.absolute()):
        return True
    return not (path / "config.json").exists() and bool(checkpoint_steps(RunDir(path)))


def _is_checkpoint(folder: Path) -> bool:
    """True if an absolute path is of the form RUN/checkpoints/STEP."""
    parents = folder.parents
    if len(parents) < 2 or not is_step(folder.name):
        return False
    return folder.parent.name == "checkpoints"


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + ("…" if len(names) > 6 else "") or "nothing"
