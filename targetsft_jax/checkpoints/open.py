"""Open a model by any path: hub id, Hugging Face folder, run directory, checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from targetsft_jax.checkpoints.reader import (
    StoredCheckpoint,
    find_checkpoint,
    is_run_path,
)
from targetsft_jax.data.tokenizer import (
    byte_tokenizer,
    load_tokenizer,
    same_tokenizer,
)
from targetsft_jax.hf.importer import load_config, load_params, mapped_params, resolve
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import rules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class StoredModel:
    """A model on disk: its config, but none of its tensors, is in memory.

    Attributes:
        path: the requested path.
        folder: folder of its config and tokenizer.
        config: its architecture.
        checkpoint: checkpoint with its weights; None: the weights are in `folder`.
    """

    path: str
    folder: Path
    config: DecoderConfig
    checkpoint: StoredCheckpoint | None = None

    @property
    def source(self) -> Path:
        """Folder of its weights."""
        return self.folder if self.checkpoint is None else self.checkpoint.folder

    def load(self, mesh: Mesh, dtype: Any) -> dict[str, Any]:
        """Load the parameters onto a mesh, from disk directly into their shards.

        Args:
            mesh: the device mesh.
            dtype: dtype of every parameter.
        """
        shapes = decoder.abstract_params(self.config, dtype)
        axes = decoder.logical_axes(self.config)
        shardings = rules.shardings(axes, shapes, mesh)
        if self.checkpoint is None:
            return load_params(
                self.folder, self.config, dtype=dtype, shardings=shardings
            )

        def sharded(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return self.checkpoint.load(jax.tree.map(sharded, shapes, shardings))

    def params(self) -> dict[str, Any]:
        """Open the parameters for reading one layer at a time.

        Returns:
            The tree of `init_params` with `models.layer_leaf.LayerLeaf` leaves, in
            their stored dtypes.
        """
        if self.checkpoint is None:
            return mapped_params(self.folder, self.config)
        return self.checkpoint.params()

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load its tokenizer."""
        return load_tokenizer(self.folder)


def open_model(path: str | Path, *, weights: bool = True) -> StoredModel:
    """Resolve the path of a model and read its config; all commands use this function.

    Args:
        path: a hub id, a Hugging Face folder, a run directory (its newest checkpoint)
            or one of its checkpoints, `RUN/checkpoints/STEP`.
        weights: also download the weights of a hub id.

    Raises:
        FileNotFoundError: no such model, or no config.json.
        ValueError: an unsupported model, or a checkpoint of adapters alone.
    """
    folder = resolve(path, weights=weights)
    checkpoint = None
    if is_run_path(folder):
        checkpoint = find_checkpoint(folder)
        run_dir = checkpoint.run_dir
        if run_dir.adapters.is_file():
            raise ValueError(
                f"{path} holds adapters, not all parameters of a model; expected a "
                f"merged model, such as {run_dir.export} or the output of `convert "
                "to-hf`"
            )
        folder = run_dir.model
    return StoredModel(str(path), folder, load_config(folder), checkpoint)


def open_tokenizer(path: str | Path | None) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer; without a path, the built-in byte tokenizer."""
    if path is None:
        return byte_tokenizer()
    return open_model(path, weights=False).tokenizer()


def shared_tokenizer(models: Mapping[str, StoredModel]) -> "PreTrainedTokenizerBase":
    """Load the student's tokenizer and check that all models share it.

    Args:
        models: role -> model, "student" among them.

    Raises:
        ValueError: a tokenizer differs (the first differing entries are listed), or
            has more tokens than a model has rows in its embedding.
    """
    student = models["student"]
    tokenizer = student.tokenizer()
    for role, model in models.items():
        if model.folder == student.folder:
            continue
        differences = same_tokenizer(tokenizer, model.tokenizer())
        if differences:
            raise ValueError(
                f"the tokenizers of the student ({student.folder}) and the {role} "
                f"({model.folder}) differ, so the {role}'s distribution is over "
                "other tokens:\n  " + "\n  ".join(differences)
            )
    for role, model in models.items():
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer of {student.folder} has {len(tokenizer)} tokens, but "
                f"the {role} ({model.folder}) has only {model.config.vocab_size} "
                "rows in its embedding"
            )
    return tokenizer
