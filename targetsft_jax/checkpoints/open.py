"""Open a model by any path: hub id, Hugging Face folder, adapter, run, checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from targetsft_jax.checkpoints.model_folder import AdapterInfo, read_adapters
from targetsft_jax.checkpoints.reader import (
    StoredCheckpoint,
    find_checkpoint,
    is_run_path,
)
from targetsft_jax.checkpoints.remote import local_model
from targetsft_jax.data.tokenizer import (
    byte_tokenizer,
    load_tokenizer,
    same_tokenizer,
)
from targetsft_jax.hf.importer import load_config, load_params, mapped_params, resolve
from targetsft_jax.hf.peft import CONFIG_FILE
from targetsft_jax.hf.peft_import import is_adapter, open_adapter
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.int8 import int8_params, quantiser, with_scales
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel import rules
from targetsft_jax.storage.location import Location, is_url

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class StoredModel:
    """A model on disk: its config, but none of its tensors, is in memory.

    Attributes:
        path: the requested path.
        folder: folder of its config, and of its tokenizer unless its adapters have one.
        config: its architecture.
        checkpoint: checkpoint with its weights; None: the weights are in `folder`.
        adapters: adapters to merge into a base model, which has the other weights.
    """

    path: str
    folder: Path
    config: DecoderConfig
    checkpoint: StoredCheckpoint | None = None
    adapters: "StoredAdapters | None" = None

    @property
    def source(self) -> Location:
        """Folder of its weights; of adapters, where it has them."""
        if self.adapters is not None:
            return self.adapters.folder
        return self.folder if self.checkpoint is None else self.checkpoint.folder

    @property
    def bases(self) -> "list[StoredModel]":
        """Base model of its adapters, the base of that, and so on; often empty."""
        if self.adapters is None:
            return []
        return [self.adapters.base, *self.adapters.base.bases]

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of its tokenizer."""
        if self.adapters is not None and _has_tokenizer(self.adapters.folder):
            return self.adapters.folder
        return self.folder

    def load(self, mesh: Mesh, dtype: Any, *, int8: bool = False) -> dict[str, Any]:
        """Load the parameters onto a mesh, from disk directly into their shards.

        Adapters are merged on the host, one projection of all layers at a time.

        Args:
            mesh: the device mesh.
            dtype: dtype of every parameter.
            int8: quantise the matrices of the layers (see `models.int8`); those of a
                Hugging Face folder one by one, as they are read.
        """
        axes = decoder.logical_axes(self.config)
        if int8 and (self.adapters or self.checkpoint):
            return int8_params(self.load(mesh, dtype), axes, mesh)
        if self.adapters is not None:
            return _placed(self.params(dtype), self.adapters.base.load(mesh, dtype))
        shapes = decoder.abstract_params(self.config, dtype)
        shardings = rules.shardings(axes, shapes, mesh)
        if self.checkpoint is None:
            read = partial(load_params, self.folder, self.config, dtype=dtype)
            if int8:
                convert = quantiser(axes, mesh)
                return with_scales(read(shardings=shardings, convert=convert))
            return read(shardings=shardings)

        def sharded(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return self.checkpoint.load(jax.tree.map(sharded, shapes, shardings))

    def params(self, dtype: Any = None) -> dict[str, Any]:
        """Open the parameters for reading one layer at a time.

        Args:
            dtype: dtype of kernels with merged adapters; None for that of the base.

        Returns:
            The tree of `init_params` with `models.layer_leaf.LayerLeaf` leaves, in
            their stored dtypes.
        """
        if self.adapters is not None:
            base = self.adapters.base.params(dtype)
            tensors, settings = self.adapters.read()
            return lora.merged(base, tensors, settings, dtype or self.adapters.dtype)
        if self.checkpoint is None:
            return mapped_params(self.folder, self.config)
        return self.checkpoint.params()

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load its tokenizer."""
        return load_tokenizer(self.tokenizer_folder)


@dataclass(frozen=True)
class StoredAdapters:
    """Adapters on disk, and their base model.

    Attributes:
        folder: folder of their tensors.
        base: the model that they adapt.
        read: reads them; returns the tree of `lora.init_adapters` and the settings.
        dtype: name of the dtype of merged kernels; None: that of the base's kernels.
    """

    folder: Location
    base: StoredModel
    read: Callable[[], tuple[dict[str, Any], Lora]]
    dtype: str | None = None


def open_model(path: str | Path, *, weights: bool = True) -> StoredModel:
    """Resolve the path of a model and read its config; all commands use this function.

    Args:
        path: a hub id, a Hugging Face folder, a folder of adapters in PEFT's format, a
            run directory (its newest checkpoint) or one of its checkpoints,
            `RUN/checkpoints/STEP`; all but the hub id local, or as gs://BUCKET/PATH.
        weights: also download the weights of a hub id.

    Raises:
        FileNotFoundError: no such model, or the base model of adapters is absent.
        ValueError: an unsupported model or adapter.
    """
    return _open(path, weights, ())


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
        if model.tokenizer_folder == student.tokenizer_folder:
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


def _open(path: str | Path, weights: bool, adapters: tuple[Path, ...]) -> StoredModel:
    """Open a model; `adapters` are the folders whose base it is."""
    folder = (
        local_model(str(path), weights=weights)
        if is_url(path)
        else resolve(path, weights=weights)
    )
    if folder.resolve() in adapters:
        raise ValueError(
            f"{folder} names itself as the base model of its adapters; set "
            f"base_model_name_or_path in {folder / CONFIG_FILE} to the model that was "
            "adapted"
        )
    inner = (*adapters, folder.resolve())
    if is_run_path(folder):
        return _open_checkpoint(str(path), find_checkpoint(folder), weights, inner)
    if is_adapter(folder):
        adapter = open_adapter(folder)
        base = _open_base(adapter.base, folder / CONFIG_FILE, weights, inner)
        stored = StoredAdapters(folder, base, lambda: adapter.load(base.config))
        return StoredModel(str(path), base.folder, base.config, adapters=stored)
    if not (folder / "config.json").is_file():
        names = sorted(entry.name for entry in folder.iterdir())
        raise FileNotFoundError(
            f"{path} is not a model: no config.json (Hugging Face folder), no "
            "adapter_config.json (adapters), no checkpoints/STEP/params (run directory)"
            f"; it has {', '.join(names[:8]) or 'nothing'}. Pass one of these, or a hub"
            " id such as Qwen/Qwen2.5-0.5B"
        )
    return StoredModel(str(path), folder, load_config(folder))


def _open_checkpoint(
    path: str, checkpoint: StoredCheckpoint, weights: bool, inner: tuple[Path, ...]
) -> StoredModel:
    run_dir = checkpoint.run_dir
    info = read_adapters(run_dir)
    adapters = None
    if info is not None:
        base = _open_base(info.base, run_dir.adapters, weights, inner)
        read = partial(_read_checkpoint, checkpoint, info)
        adapters = StoredAdapters(checkpoint.folder, base, read, info.dtype)
    config = load_config(run_dir.model)
    return StoredModel(path, run_dir.model, config, checkpoint, adapters)


def _open_base(
    base: str, named_in: Path, weights: bool, inner: tuple[Path, ...]
) -> StoredModel:
    try:
        return _open(base, weights, inner)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{named_in} names the base model {base}, which cannot be opened: {error}. "
            "Set it to the path of the base, or merge the adapters where it is"
        ) from None


def _read_checkpoint(
    checkpoint: StoredCheckpoint, info: AdapterInfo
) -> tuple[dict[str, Any], Lora]:
    tensors = checkpoint.params()
    checkpoint.verify(tensors)
    return tensors, info.lora


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()


def _placed(params: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Loaded parameters of a base, with the merged kernels in their places."""

    def place(leaf: Any, loaded: jax.Array) -> jax.Array:
        if not isinstance(leaf, lora.Merged):
            return loaded
        host = np.stack([leaf[layer] for layer in range(leaf.shape[0])])
        return jax.make_array_from_callback(
            host.shape, loaded.sharding, lambda index: host[index]
        )

    return jax.tree.map(place, params, base)
