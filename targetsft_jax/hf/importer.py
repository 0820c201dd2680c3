"""Read a Hugging Face checkpoint: its config, and its tensors straight to devices."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax.hf.config_json import config_from_json
from targetsft_jax.hf.families import places
from targetsft_jax.hf.shard_reader import THREADS, Source, fill
from targetsft_jax.hf.tensor_files import DTYPES, open_tensors, read_json
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params
from targetsft_jax.storage.atomic import former

_HUB_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer*", "*.model"]

# Tensors named in a warning; all are counted.
_SHOWN = 5


def resolve(path_or_hub_id: str | Path, *, weights: bool = True) -> Path:
    """A local model folder: the one named, or a snapshot of a hub id.

    From the hub come only safetensors, JSON, chat-template and tokenizer files; what
    is in the local cache is not downloaded again. Without `weights`, no safetensors.

    Raises:
        FileNotFoundError: neither a folder here nor a model that can be reached.
        NotADirectoryError: the path is a file.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotADirectoryError(
            f"{name} is a file; pass the folder that holds config.json and the "
            "safetensors files."
        )
    if (old := former(path)) is not None:
        raise FileNotFoundError(
            f"{name} does not exist: an export was killed as it took this name. What "
            f"was there before is complete in {old}; export again, or rename it back."
        )
    if isinstance(path_or_hub_id, Path) or name[:1] in "/.~" or name.count("/") > 1:
        raise FileNotFoundError(
            f"{name} does not exist; pass an existing model folder, or a hub id "
            "such as Qwen/Qwen2.5-0.5B."
        )
    wanted = [*_HUB_FILES, "*.safetensors"] if weights else _HUB_FILES
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{name} is neither a folder here nor a model that the hub gave us "
            f"({type(error).__name__}: {reason}); pass a local folder, or download "
            f"it first with `hf download {name}`."
        ) from None


def load_config(folder: str | Path) -> DecoderConfig:
    """The decoder that a checkpoint folder's config.json describes.

    Raises:
        FileNotFoundError: no config.json there.
        ValueError: it is not JSON, or describes a model we would compute wrongly.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; pass a folder with config.json and safetensors."
        )
    return config_from_json(read_json(path), str(path))


def load_params(
    folder: str | Path, config: DecoderConfig, *, dtype=jnp.float32, shardings=None
) -> dict:
    """The parameters of a checkpoint, each device shard read on its own.

    All headers are checked before any data is read. Then each process reads only the
    slices that its devices hold, in pieces of bounded size that go straight to the
    devices: neither the model nor a whole large parameter exists on a host.

    Args:
        folder: holds model.safetensors, or shards and model.safetensors.index.json.
        config: from `load_config`.
        dtype: dtype of every parameter; the files' values are cast to it. None keeps
            each as it is stored (float64 as float32), in the wider one where the
            layers differ.
        shardings: a tree of `jax.sharding.Sharding` like the parameters, or one for
            all of them; the default device when None.

    Returns:
        The tree of `targetsft_jax.models.decoder.init_params`.

    Raises:
        FileNotFoundError: no safetensors there.
        ValueError: tensors missing, unexpected, or of a wrong shape or dtype (all of
            them in one message); an index entry outside the folder; a damaged file.

    Warns:
        UserWarning: tensors with NaN or infinite values, named and counted. A process
            counts what it reads.
    """
    abstract = abstract_params(config)
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    folder = Path(folder)
    sources = _sources(folder, config, abstract)
    bad: dict[str, int] = {}
    with ThreadPoolExecutor(THREADS) as pool:

        def read(path, leaf, sharding):
            names = tuple(entry.key for entry in path)
            found = sources[names]
            stored = (DTYPES[source.tensor.dtype] for source in found)
            wanted = jnp.result_type(*stored) if dtype is None else dtype
            return fill(found, leaf.shape, np.dtype(wanted), sharding, pool, bad)

        params = jax.tree_util.tree_map_with_path(read, abstract, shardings)
    if bad:
        _warn(folder, bad)
    return params


def mapped_params(folder: str | Path, config: DecoderConfig) -> dict:
    """The tree of `init_params` with a `MappedLeaf` for each parameter; none is read.

    Raises:
        FileNotFoundError, ValueError: as `load_params`.
    """
    abstract = abstract_params(config)
    sources = _sources(Path(folder), config, abstract)

    def leaf(path, like):
        return MappedLeaf(sources[tuple(entry.key for entry in path)], like.shape)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


class MappedLeaf:
    """A parameter in a checkpoint's files; what is asked for is read, and not kept."""

    def __init__(self, sources: list[Source], shape: tuple[int, ...]):
        self._sources, self.shape = sources, shape
        stored = (DTYPES[source.tensor.dtype] for source in sources)
        self.dtype = np.dtype(jnp.result_type(*stored))

    def __getitem__(self, layer: int) -> np.ndarray:
        return self._read(next(s for s in self._sources if s.place.layer == layer))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self._read(self._sources[0]), dtype)

    def _read(self, source: Source) -> np.ndarray:
        rows = source.place.rows or (0, source.tensor.shape[0])
        found = source.tensor.rows(*rows)
        return found.T if source.place.transposed else found


def _sources(folder, config, abstract):
    """The checkpoint's tensors by the parameter that they belong to, all checked."""
    tensors = open_tensors(folder)
    _check(folder, config, abstract, tensors)
    sources: dict[tuple, list[Source]] = {}
    for key, parts in places(config).items():
        for place in parts:
            sources.setdefault(place.path, []).append(Source(key, tensors[key], place))
    return sources


def _warn(folder, bad):
    named = [f"{key} ({count:,})" for key, count in bad.items()]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    warnings.warn(
        f"{folder}: {sum(bad.values()):,} values in {len(bad)} tensors are NaN or "
        f"infinite: {', '.join(named[:_SHOWN])}{more}. The checkpoint is broken, or "
        "overflowed its dtype; a model with them gives NaN.",
        stacklevel=3,
    )


def _check(folder, config, abstract, tensors):
    expected = places(config)
    problems = [f"missing: {key}" for key in expected if key not in tensors]
    for key, tensor in tensors.items():
        shape, dtype = tensor.shape, tensor.dtype
        if key in expected:
            wanted = _expected_shape(abstract, expected[key])
            if shape != wanted:
                problems.append(f"mis-shaped: {key} is {shape}, expected {wanted}")
            if dtype not in DTYPES:
                problems.append(
                    f"dtype: {key} is {dtype}, expected one of {', '.join(DTYPES)}"
                )
        elif not _ignored(key, config):
            problems.append(f"unexpected: {key} {shape}")
    if problems:
        raise ValueError(
            f"{folder}: the tensors do not fit its {config.model_type} config "
            f"({len(problems)} problems):\n  " + "\n  ".join(problems)
        )


def _expected_shape(abstract, parts):
    place = parts[-1]
    leaf = abstract
    for name in place.path:
        leaf = leaf[name]
    shape = leaf.shape if place.layer is None else leaf.shape[1:]
    shape = shape[::-1] if place.transposed else shape
    # The last part ends where the tensor does.
    return shape if place.rows is None else (place.rows[1], *shape[1:])


def _ignored(key, config):
    tied_copy = key == "lm_head.weight" and config.tie_word_embeddings
    return tied_copy or key.endswith("rotary_emb.inv_freq")
