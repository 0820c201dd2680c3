"""Origin of a model: its hub id or folder name, its base model and its licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targetsft_jax.hf.sidecar_files import CARD_FILE
from targetsft_jax.storage import yaml_file
from targetsft_jax.storage.location import is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

_LICENCE = ("license", "license_name", "license_link")
_SNAPSHOT = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/[^/]+$")
_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Origin:
    """A model's name for readers on other machines; never a path.

    Attributes:
        name: last part of the hub id, or name of the folder.
        hub_id: id on the hub; None for a local model.
        base_model: the hub id, else the base model that the folder's card names.
        licence: the metadata `license`, `license_name` and `license_link` of the
            folder's card, as far as it has them.
    """

    name: str
    hub_id: str | None = None
    base_model: str | None = None
    licence: Mapping[str, str] = field(default_factory=dict)


def origin(path: str | None, folder: Path) -> Origin:
    """Origin of a model.

    Args:
        path: hub id or path, as requested; None: a model that the run built.
        folder: folder of its config and, if it has one, its model card.
    """
    hub_id = _hub_id(path, folder)
    card = _card_metadata(folder / CARD_FILE)
    licence = {k: card[k] for k in _LICENCE if isinstance(card.get(k), str)}
    base = card.get("base_model")
    base = base if isinstance(base, str) and _ID.fullmatch(base) else None
    requested = folder if path is None or is_url(path) else user_path(path)
    local = requested.resolve()
    name = hub_id.partition("/")[2] if hub_id else _local_name(local)
    return Origin(name, hub_id, hub_id or base, licence)


def _hub_id(path: str | None, folder: Path) -> str | None:
    if path is not None and _ID.fullmatch(path) and not user_path(path).exists():
        return path if path[0] not in ".~" else None
    cached = _SNAPSHOT.search(folder.absolute().as_posix())
    return f"{cached[1]}/{cached[2]}" if cached else None


def _local_name(path: Path) -> str:
    """Name of a folder; for parts of a run directory, that of the run."""
    run_dir = RunDir(path.parent)
    if path.parent.name == run_dir.checkpoints.name:
        return f"{path.parents[1].name}, step {path.name}"
    if path in (run_dir.export, run_dir.model) and run_dir.config.is_file():
        return run_dir.name
    return path.name


def _card_metadata(path: Path) -> dict[str, Any]:
    """Metadata of a model card; empty if it has none that can be read."""
    try:
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        tree = yaml_file.parse(parts[1], str(path)) if len(parts) == 3 else {}
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) and not parts[0].strip() else {}
