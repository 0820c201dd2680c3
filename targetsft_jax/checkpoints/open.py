"""The models of a run: which folders, one tokenizer, parameters on the mesh."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.checkpoints.reader import (
    MODEL_FOLDER,
    Stored,
    find_checkpoint,
    is_run_path,
)
from targetsft_jax.data.tokenizer import load_tokenizer, same_tokenizer
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import rules


@dataclass(frozen=True)
class Role:
    """A checkpoint that a run reads, known before any tensor of it is.

    Attributes:
        name: "student", "teacher" or "reference".
        folder: its Hugging Face folder, or the one that describes the checkpoint.
        config: its architecture.
        dtype: of its parameters on the devices.
        checkpoint: of a run of this package, in place of the folder's weights.
    """

    name: str
    folder: Path
    config: DecoderConfig
    dtype: Any
    checkpoint: Stored | None = None

    @property
    def source(self) -> Path:
        """Where its weights are."""
        return self.folder if self.checkpoint is None else self.checkpoint.folder

    def load(self, mesh: Mesh) -> dict[str, Any]:
        """Its parameters, straight from the file to their shards."""
        shapes = decoder.abstract_params(self.config, self.dtype)
        places = rules.shardings(decoder.logical_axes(self.config), shapes, mesh)
        if self.checkpoint is not None:
            return self.checkpoint.load(
                jax.tree.map(
                    lambda x, place: jax.ShapeDtypeStruct(
                        x.shape, x.dtype, sharding=place
                    ),
                    shapes,
                    places,
                )
            )
        return load_params(self.folder, self.config, dtype=self.dtype, shardings=places)


def open_role(name: str, folder: Path, dtype: Any) -> Role:
    """A role by its folder; its config.json is read and checked.

    Args:
        name: of the role.
        folder: a Hugging Face folder, a run directory or one of its checkpoints.
        dtype: of its parameters.
    """
    checkpoint = find_checkpoint(folder) if is_run_path(folder) else None
    if checkpoint is not None:
        folder = checkpoint.run_dir / MODEL_FOLDER
    return Role(name, folder, load_config(folder), jnp.dtype(dtype), checkpoint)


def shared_tokenizer(roles: list[Role]) -> Any:
    """The student's tokenizer, which every other role must share.

    Raises:
        ValueError: a tokenizer differs (the first differing entries are shown), or
            has more tokens than a model has rows.
    """
    student, *others = roles
    tokenizer = load_tokenizer(student.folder)
    for role in others:
        if role.folder == student.folder:
            continue
        differences = same_tokenizer(tokenizer, load_tokenizer(role.folder))
        if differences:
            raise ValueError(
                f"the tokenizers of the student ({student.folder}) and the {role.name} "
                f"({role.folder}) differ, so the {role.name}'s distribution is over "
                "other tokens:\n  " + "\n  ".join(differences)
            )
    for role in roles:
        if len(tokenizer) > role.config.vocab_size:
            raise ValueError(
                f"the tokenizer of {student.folder} has {len(tokenizer)} tokens, but "
                f"the {role.name} ({role.folder}) has only {role.config.vocab_size} "
                "rows in its embedding"
            )
    return tokenizer
