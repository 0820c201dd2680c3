"""Completeness of checkpoints: by their names, or by a file where renames copy.

On a local disk a checkpoint has a temporary name until it is complete. On an object
store, and on a mount of one, a rename copies every object: there a checkpoint has its
name from the start and is complete once Orbax has written a file into it.
"""

import re
from typing import Any

import orbax.checkpoint as ocp

from targetsft_jax.storage import object_store
from targetsft_jax.storage.location import Location, commits_by_file
from targetsft_jax.storage.run_dir import RunDir

COMMIT_FILE = "commit_success.txt"
"""File that Orbax writes last."""

# Files of all items of a checkpoint; one that was killed while it was written may lack
# the last of them, and one that was copied has them all.
_FILES = ("params/_METADATA", "optimizer/_METADATA", "position/metadata")


def atomicity(folder: Location) -> dict[str, Any]:
    """Options of `CheckpointManagerOptions` for a folder of checkpoints."""
    mode = ocp.options.AtomicityMode
    chosen = mode.COMMIT_FILE if commits_by_file(folder) else mode.AUTO
    return {"atomicity_options": ocp.options.AtomicityOptions(mode=chosen)}


def checkpoint_steps(run_dir: RunDir) -> list[int]:
    """Steps of a run's complete checkpoints, in order; empty for any other folder."""
    folder = run_dir.checkpoints
    names = {path.parents[1].name for path in folder.glob("*/params/_METADATA")}
    if commits_by_file(folder):
        names &= {path.parent.name for path in folder.glob(f"*/{COMMIT_FILE}")}
    return sorted(int(name) for name in names if is_step(name))


def is_step(name: str) -> bool:
    """True for the name of a checkpoint: not 007, nor digits of other scripts."""
    return re.fullmatch(r"0|[1-9][0-9]{0,17}", name) is not None


def set_uncommitted_aside(run_dir: RunDir) -> None:
    """Move checkpoints that have all their files but the last one.

    They were copied without it, or their writer was killed before it. Orbax would
    delete them.
    """
    folder = run_dir.checkpoints
    if not commits_by_file(folder) or not folder.exists():
        return
    complete = {str(step) for step in checkpoint_steps(run_dir)}
    for path in folder.iterdir():
        if not is_step(path.name) or path.name in complete:
            continue
        if all((path / name).exists() for name in _FILES):
            target = object_store.set_aside(path, run_dir.damaged_checkpoints)
            print(
                f"checkpoint {path.name} has no {COMMIT_FILE}, so it may be incomplete;"
                f" moved to {target}. If it was copied without this file, move it back"
                " and add an empty one"
            )
