"""Read a Hugging Face checkpoint: its config, and its tensors straight to devices."""

import contextlib
import json
from pathlib import Path, PurePosixPath

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  numpy reads bfloat16 files only once it is imported
import numpy as np
from safetensors import SafetensorError, safe_open

from targetsft_jax.hf.config_json import config_from_json
from targetsft_jax.hf.families import places
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_HUB_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer*", "*.model"]
_DTYPES = ("F64", "F32", "F16", "BF16")


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
    return config_from_json(_read_json(path), str(path))


def load_params(
    folder: str | Path, config: DecoderConfig, *, dtype=jnp.float32, shardings=None
) -> dict:
    """The parameters of a checkpoint, each device shard read on its own.

    All headers are checked before any data is read. Then each process reads only the
    slices that its devices hold, one parameter at a time, so the model never exists
    whole on a host.

    Args:
        folder: holds model.safetensors, or shards and model.safetensors.index.json.
        config: from `load_config`.
        dtype: dtype of every parameter; the files' values are cast to it.
        shardings: a tree of `jax.sharding.Sharding` like the parameters, or one for
            all of them; the default device when None.

    Returns:
        The tree of `targetsft_jax.models.decoder.init_params`.

    Raises:
        FileNotFoundError: no safetensors there.
        ValueError: tensors missing, unexpected, or of a wrong shape or dtype (all of
            them in one message); an index entry outside the folder; a damaged file.
    """
    folder = Path(folder)
    abstract = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    with contextlib.ExitStack() as stack:
        tensors = _open(folder, stack)
        _check(folder, config, abstract, tensors)
        sources = {}
        for key, parts in places(config).items():
            for place in parts:
                sources.setdefault(place.path, []).append((tensors[key], place))

        def read(path, leaf, sharding):
            names = tuple(entry.key for entry in path)
            return _read_leaf(sources[names], leaf.shape, np.dtype(dtype), sharding)

        return jax.tree_util.tree_map_with_path(read, abstract, shardings)


def _read_leaf(sources, shape, dtype, sharding):
    """One parameter as a global array; `sources` are its layers' tensors in order."""
    done = {}  # devices that hold the same slice share one read

    def shard(index):
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
        if bounds not in done:
            done[bounds] = _read_slice(sources, bounds, dtype)
        return done[bounds]

    return jax.make_array_from_callback(shape, sharding, shard, dtype=dtype)


def _read_slice(sources, bounds, dtype):
    stacked = sources[0][1].layer is not None
    inner = [slice(*bound) for bound in (bounds[1:] if stacked else bounds)]

    def part(tensor, place):
        stored = inner[::-1] if place.transposed else inner[:]
        if place.rows is not None:
            first, rows = place.rows[0], stored[0]
            stored[0] = slice(first + rows.start, first + rows.stop)
        found = tensor[tuple(stored)]
        return found.T if place.transposed else found

    result = np.empty([stop - start for start, stop in bounds], dtype)
    if stacked:
        for row, source in enumerate(sources[slice(*bounds[0])]):
            result[row] = part(*source)
    else:
        result[...] = part(*sources[0])
    return result


def _open(folder, stack):
    """Every tensor's lazy slice: key -> object with get_shape, get_dtype, [...]."""
    weight_map = _weight_map(folder)
    names = [SINGLE_FILE] if weight_map is None else sorted(set(weight_map.values()))
    tensors = {}
    for name in names:
        path = folder / name
        try:
            file = stack.enter_context(safe_open(path, framework="numpy"))
            for key in file.keys():
                if weight_map is None or weight_map.get(key) == name:
                    tensors[key] = file.get_slice(key)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} does not exist, though {INDEX_FILE} names it; download the "
                "checkpoint again."
            ) from None
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or incomplete ({error}); download it again."
            ) from None
    return tensors


def _weight_map(folder):
    """The index's tensor -> file, or None for a checkpoint in a single file."""
    if (folder / SINGLE_FILE).is_file():
        return None
    path = folder / INDEX_FILE
    if not path.is_file():
        found = sorted(p.name for p in folder.glob("*") if p.is_file())
        pickles = [name for name in found if name.endswith((".bin", ".pt", ".pth"))]
        raise FileNotFoundError(
            f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}"
            + (
                f", only pickle files ({', '.join(pickles[:3])}), which can run code "
                "when opened; load them with transformers and save_pretrained them "
                "again as safetensors."
                if pickles
                else f" (found: {', '.join(found[:8]) or 'nothing'})."
            )
        )
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{path} has no weight_map; download it again.")
    for key, name in weight_map.items():
        pure = PurePosixPath(str(name))
        if pure.is_absolute() or ".." in pure.parts or "\\" in str(name):
            raise ValueError(
                f"{path}: {key} points to {name!r}, outside the checkpoint's folder; "
                "refused, an index may only name files beside it."
            )
    return weight_map


def _check(folder, config, abstract, tensors):
    expected = places(config)
    problems = [f"missing: {key}" for key in expected if key not in tensors]
    for key, tensor in tensors.items():
        shape, dtype = tuple(tensor.get_shape()), str(tensor.get_dtype())
        if key in expected:
            wanted = _expected_shape(abstract, expected[key])
            if shape != wanted:
                problems.append(f"mis-shaped: {key} is {shape}, expected {wanted}")
            if dtype not in _DTYPES:
                problems.append(
                    f"dtype: {key} is {dtype}, expected one of {', '.join(_DTYPES)}"
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


def _read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again.") from None
