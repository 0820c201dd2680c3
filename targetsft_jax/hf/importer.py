"""Import Hugging Face checkpoints: config, and tensors directly onto devices."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from targetsft_jax.hf.config_json import config_from_json
from targetsft_jax.hf.shard_reader import THREADS, Source, read_parameter
from targetsft_jax.hf.tensor_files import (
    DTYPES,
    StoredTensor,
    open_tensors,
    read_json,
)
from targetsft_jax.hf.tensor_map import ParameterSlice, checkpoint_tensors
from targetsft_jax.hf.text_part import text_config, text_tensors, warn_of_other_parts
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params
from targetsft_jax.storage.atomic import former
from targetsft_jax.storage.user_path import user_path

MODEL_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer*", "*.model", "README.md")
"""Patterns of the files of a model beside its tensors."""

TENSOR_FILES = ("*.safetensors",)
"""Patterns of the files of its tensors."""

# Number of tensors that a warning lists; all are counted.
_SHOWN = 5

# Number of problems that an error lists; all are counted.
_PROBLEMS = 40


def resolve(path_or_hub_id: str | Path, *, weights: bool = True) -> Path:
    """Resolve a path or hub id to the local folder of a model.

    Only safetensors, JSON, chat-template, tokenizer files and the model card are
    downloaded from the hub, unless they are in the local cache.

    Args:
        path_or_hub_id: a local folder, or an id such as Qwen/Qwen2.5-0.5B.
        weights: download safetensors too.

    Raises:
        FileNotFoundError: neither a local folder nor a model on the hub.
        NotADirectoryError: the path is a file.
    """
    name = str(path_or_hub_id)
    path = user_path(name)
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(
            f"{name} is a file; pass the folder that contains config.json and the "
            "safetensors files."
        )
    if (old := former(path)) is not None:
        raise FileNotFoundError(
            f"{name} does not exist: an export was killed while it replaced this "
            f"folder. The earlier export is complete in {old}; export again, or rename "
            "it back."
        )
    if isinstance(path_or_hub_id, Path) or name[:1] in "/.~" or name.count("/") > 1:
        raise FileNotFoundError(
            f"{name} does not exist; pass an existing model folder, or a hub id "
            "such as Qwen/Qwen2.5-0.5B."
        )
    patterns = [*MODEL_FILES, *(TENSOR_FILES if weights else ())]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{name} is neither a local folder nor a model available on the hub "
            f"({type(error).__name__}: {reason}); pass a local folder, or download "
            f"it first with `hf download {name}`."
        ) from None


def load_config(folder: str | Path) -> DecoderConfig:
    """Decoder config from the config.json of a folder, or of its text part.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: it is not JSON, or describes a model that is not implemented.

    Warns:
        UserWarning: the model is multimodal, or has a dropout.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; pass a folder with config.json and safetensors."
        )
    raw = read_json(path)
    warn_of_other_parts(raw, str(path))
    return config_from_json(text_config(raw), str(path))


def load_params(
    folder: str | Path,
    config: DecoderConfig,
    *,
    dtype: DTypeLike | None = jnp.float32,
    shardings: Any = None,
    convert: Callable[[Any, jax.Array], Any] = lambda _, array: array,
) -> dict:
    """Read the parameters of a checkpoint, each device shard separately.

    All headers are checked before any data is read. Then each process reads only the
    slices of its devices, in pieces of bounded size that go directly to the devices:
    no host holds the model or a large unsharded parameter.

    Args:
        folder: contains model.safetensors, or shards and model.safetensors.index.json.
        config: from `load_config`.
        dtype: dtype of every parameter; stored values are cast to it. None for the
            stored dtype of each (float64 becomes float32), the widest where layers
            differ.
        shardings: a tree of `jax.sharding.Sharding` like the parameters, or one for
            all of them; None for the default device.
        convert: function of the path of a parameter and its array, called before the
            next one is read.

    Returns:
        The tree of `targetsft_jax.models.decoder.init_params`, converted.

    Raises:
        FileNotFoundError: no safetensors in the folder.
        ValueError: tensors missing, unexpected, or of a wrong shape or dtype (in one
            message); an index entry outside the folder; a damaged file.

    Warns:
        UserWarning: tensors with NaN or infinite values, named and counted. Each
            process counts the values that it reads.
    """
    abstract = abstract_params(config)
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    folder = Path(folder)
    sources = _sources(folder, config, abstract)
    non_finite: dict[str, int] = {}
    with ThreadPoolExecutor(THREADS) as pool:

        def read(path: Any, leaf: Any, sharding: jax.sharding.Sharding) -> Any:
            tensors = sources[_names(path)]
            stored = (DTYPES[source.tensor.dtype] for source in tensors)
            result_dtype = jnp.result_type(*stored) if dtype is None else dtype
            array = read_parameter(
                tensors, leaf.shape, np.dtype(result_dtype), sharding, pool, non_finite
            )
            return convert(path, array)

        params = jax.tree_util.tree_map_with_path(read, abstract, shardings)
    if non_finite:
        _warn(folder, non_finite)
    return params


def mapped_params(folder: str | Path, config: DecoderConfig) -> dict:
    """Open parameters without reading: the tree of `init_params` with `MappedLeaf`s.

    Raises:
        FileNotFoundError, ValueError: as `load_params`.
    """
    abstract = abstract_params(config)
    sources = _sources(Path(folder), config, abstract)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: MappedLeaf(sources[_names(path)], leaf.shape), abstract
    )


class MappedLeaf:
    """A parameter in mapped files, read one layer at a time: a `LayerLeaf`."""

    def __init__(self, sources: list[Source], shape: tuple[int, ...]) -> None:
        self._sources, self.shape = sources, shape
        stored = (DTYPES[source.tensor.dtype] for source in sources)
        self.dtype = np.dtype(jnp.result_type(*stored))

    def __getitem__(self, layer: int) -> np.ndarray:
        parts = [self._read(s) for s in self._sources if s.part.layer == layer]
        # One part per expert, in order.
        return parts[0] if len(self.shape) < 4 else np.stack(parts)

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.asarray(self._read(self._sources[0]), dtype)

    def _read(self, source: Source) -> np.ndarray:
        rows = source.part.rows or (0, source.tensor.shape[0])
        stored = source.tensor.rows(*rows)
        return stored.T if source.part.transposed else stored


def _names(path: Any) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def _sources(
    folder: Path, config: DecoderConfig, abstract: dict
) -> dict[tuple[str, ...], list[Source]]:
    """Tensors of a checkpoint by parameter, after a check of all shapes and dtypes."""
    tensors = text_tensors(config.model_type, open_tensors(folder))
    _check(folder, config, abstract, tensors)
    sources: dict[tuple[str, ...], list[Source]] = {}
    for key, parts in checkpoint_tensors(config).items():
        for part in parts:
            sources.setdefault(part.path, []).append(Source(key, tensors[key], part))
    return sources


def _warn(folder: Path, non_finite: dict[str, int]) -> None:
    counts = [f"{key} ({count:,})" for key, count in non_finite.items()]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    warnings.warn(
        f"{folder}: {sum(non_finite.values()):,} values in {len(non_finite)} tensors "
        f"are NaN or infinite: {', '.join(counts[:_SHOWN])}{more}. The checkpoint "
        "is damaged, or overflowed its dtype; the model's outputs will be NaN.",
        stacklevel=3,
    )


def _check(
    folder: Path,
    config: DecoderConfig,
    abstract: dict,
    tensors: dict[str, StoredTensor],
) -> None:
    expected = checkpoint_tensors(config)
    problems = [f"missing: {key}" for key in expected if key not in tensors]
    for key, tensor in tensors.items():
        shape, dtype = tensor.shape, tensor.dtype
        if key in expected:
            expected_shape = _expected_shape(abstract, expected[key])
            if shape != expected_shape:
                problems.append(
                    f"mis-shaped: {key} is {shape}, expected {expected_shape}"
                )
            if dtype not in DTYPES:
                problems.append(
                    f"dtype: {key} is {dtype}, expected one of {', '.join(DTYPES)}"
                )
        elif not _ignored(key, config):
            problems.append(f"unexpected: {key} {shape}")
    if problems:
        rest = len(problems) - _PROBLEMS
        more = f"\n  … and {rest} more" if rest > 0 else ""
        raise ValueError(
            f"{folder}: the tensors do not fit its {config.model_type} config "
            f"({len(problems)} problems):\n  "
            + "\n  ".join(problems[:_PROBLEMS])
            + more
        )


def _expected_shape(
    abstract: dict, parts: tuple[ParameterSlice, ...]
) -> tuple[int, ...]:
    last = parts[-1]
    leaf: Any = abstract
    for name in last.path:
        leaf = leaf[name]
    shape = leaf.shape[len(last.index) :]
    shape = shape[::-1] if last.transposed else shape
    # The last part ends where the tensor ends.
    return shape if last.rows is None else (last.rows[1], *shape[1:])


def _ignored(key: str, config: DecoderConfig) -> bool:
    tied_copy = key == "lm_head.weight" and config.tie_word_embeddings
    return tied_copy or key.endswith("rotary_emb.inv_freq")
