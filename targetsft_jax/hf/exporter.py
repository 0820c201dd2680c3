"""Export checkpoints in the Hugging Face layout, for transformers, vLLM and others."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from targetsft_jax.hf.shard_reader import cast_into
from targetsft_jax.hf.sidecar_files import write_sidecar_files
from targetsft_jax.hf.tensor_files import INDEX_FILE, SINGLE_FILE
from targetsft_jax.hf.tensor_map import ParameterSlice, checkpoint_tensors
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.parallel import preemption, processes
from targetsft_jax.storage import atomic, manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Stored dtypes by name, with their names in safetensors."""


def save_pretrained(
    folder: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    like: str | Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    card: str | None = None,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = 5_000_000_000,
    extra_config: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> None:
    """Write config, weights and tokenizer in the Hugging Face layout, atomically.

    Tensors go through host memory one at a time. A `tokenizer` is read back with
    AutoTokenizer, since transformers changes it for some model types. Every process of
    a multi-process job must call this; the primary process writes.

    Args:
        folder: the target. An existing one is replaced only if it is empty or an
            earlier export without a changed or additional file.
        config: the decoder.
        params: the tree of `init_params`, sharded or not; leaves may be any
            `LayerLeaf`. Each leaf is read one layer at a time, in order.
        like: model folder of origin. Keys of its config.json
            beyond the decoder's config are preserved; its generation_config.json and
            tokenizer files are copied.
        tokenizer: saved with its chat template in place of the files of `like`. Without
            `like`, its special token ids are written into config.json.
        card: text of the model card, README.md.
        dtype: stored dtype, float32, float16 or bfloat16; None for the parameters'.
        max_shard_bytes: maximum tensor bytes per safetensors file; a larger model is
            split over several files with an index. A larger tensor has its own file.
        extra_config: more keys for config.json.
        replace: False: a target that exists at the end stays, as in a cache.

    Raises:
        FileExistsError: the target exists and is not an export, or was changed.
        ValueError: parameters that do not fit the config, a dtype that cannot be
            stored, a tokenizer larger than the vocabulary or one that AutoTokenizer
            changes, or an extra key that contradicts the config.
        RuntimeError: in the other processes, if the primary process raised.
    """
    folder = Path(folder).resolve()
    specs = _specs(config, params, dtype)
    widest = jnp.result_type(*(spec.dtype for spec in specs.values()))
    partial, error = None, None
    if processes.is_primary():
        # Before the weights, whose gathers take long; the other processes wait for the
        # outcome.
        try:
            check = manifest.check_replaceable if replace else None
            partial = atomic.begin(folder, check)
            write_sidecar_files(
                partial,
                config,
                widest.name,
                like=None if like is None else Path(like),
                tokenizer=tokenizer,
                card=card,
                extra_config=extra_config,
            )
        except Exception as raised:
            error = raised
    try:
        _raise_everywhere(error, folder)
        _write_weights(partial, params, specs, max_shard_bytes)
        if partial is not None:
            manifest.write(partial)
            atomic.finish(partial, folder, manifest.check_replaceable, replace=replace)
    except BaseException:
        if partial is not None:
            atomic.abandon(partial)
        raise
    processes.barrier(f"exported {folder}")


def _raise_everywhere(error: Exception | None, folder: Path) -> None:
    """Raise in every process if the primary one failed, so that none waits for it."""
    failed = error is not None
    if processes.is_multiprocess():
        failed = bool(multihost_utils.broadcast_one_to_all(np.asarray(failed)))
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(
            f"process 0 could not begin the export into {folder}; see its error"
        )


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be stored: its parameter slices, shape and dtype."""

    parts: tuple[ParameterSlice, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Size in the file, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _specs(
    config: DecoderConfig, params: dict, dtype: DTypeLike | None
) -> dict[str, TensorSpec]:
    _check_shapes(config, params)
    specs = {}
    for key, parts in checkpoint_tensors(config).items():
        last = parts[-1]
        leaf = _leaf(params, last.path)
        stored = np.dtype(leaf.dtype if dtype is None else dtype)
        if stored.name not in STORED_DTYPES:
            raise ValueError(
                f"{key} would be stored as {stored.name}; expected a dtype of "
                f"{', '.join(STORED_DTYPES)}"
            )
        shape = tuple(leaf.shape[len(last.index) :])
        shape = shape[::-1] if last.transposed else shape
        if last.rows is not None:
            # The last part ends where the tensor ends.
            shape = (last.rows[1], *shape[1:])
        specs[key] = TensorSpec(parts, shape, stored)
    return specs


def _check_shapes(config: DecoderConfig, params: dict) -> None:
    def shapes(tree: dict) -> dict[tuple[str, ...], tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            tuple(entry.key for entry in path): tuple(leaf.shape)
            for path, leaf in leaves
        }

    expected, actual = shapes(abstract_params(config)), shapes(params)
    problems = [
        f"{'.'.join(path)}: found {actual.get(path, 'nothing')}, "
        f"expected {expected.get(path, 'nothing')}"
        for path in sorted({*expected, *actual})
        if expected.get(path) != actual.get(path)
    ]
    if problems:
        raise ValueError(
            "the parameters do not fit the config:\n  " + "\n  ".join(problems)
        )


def _leaf(params: dict, path: tuple[str, ...]) -> LayerLeaf:
    leaf: Any = params
    for name in path:
        leaf = leaf[name]
    return leaf


def _host_value(params: dict, part: ParameterSlice, read: dict) -> np.ndarray:
    """A slice of a parameter on the host, gathered over processes if necessary.

    Args:
        params, part: the tree, and the slice of it.
        read: the layer of experts that was read last, which has many slices; updated.
    """
    leaf: Any = _leaf(params, part.path)
    if part.layer is None:
        return processes.to_host(leaf)
    if part.expert is None:
        return processes.to_host(leaf[part.layer])
    if isinstance(leaf, jax.Array):
        return processes.to_host(leaf[part.layer, part.expert])
    key = part.path, part.layer
    if key not in read:
        read.clear()
        read[key] = processes.to_host(leaf[part.layer])
    return read[key][part.expert]


def _host_tensor(params: dict, spec: TensorSpec, read: dict) -> np.ndarray:
    """One checkpoint tensor on the host; `read` as in `_host_value`."""
    tensor = np.empty(spec.shape, spec.dtype)
    for part in spec.parts:
        value = _host_value(params, part, read)
        if value.dtype == tensor.dtype and value.shape == tensor.shape:
            if not part.transposed:
                return np.ascontiguousarray(value)  # without a second copy
        rows = slice(*part.rows) if part.rows else slice(None)
        cast_into(tensor[rows], value, transposed=part.transposed)
    return tensor


def _write_weights(
    folder: Path | None,
    params: dict,
    specs: Mapping[str, TensorSpec],
    max_shard_bytes: int,
) -> None:
    """Write all tensors; without a folder, only take part in their gathers."""
    files = _split(specs, max_shard_bytes)
    if len(files) == 1:
        names = [SINGLE_FILE]
    else:
        total = len(files)
        names = [
            f"model-{number:05d}-of-{total:05d}.safetensors"
            for number in range(1, total + 1)
        ]
    for name, keys in zip(names, files):
        tensors = {key: specs[key] for key in keys}
        _write_safetensors(folder and folder / name, params, tensors)
    if folder and len(files) > 1:
        weight_map = {key: name for name, keys in zip(names, files) for key in keys}
        metadata = {"total_size": sum(spec.bytes for spec in specs.values())}
        index = {"metadata": metadata, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _split(specs: Mapping[str, TensorSpec], max_shard_bytes: int) -> list[list[str]]:
    """Keys of the tensors of each file, in order."""
    files: list[list[str]] = [[]]
    room = max_shard_bytes
    for key, spec in specs.items():
        if spec.bytes > room and files[-1]:
            files.append([])
            room = max_shard_bytes
        files[-1].append(key)
        room -= spec.bytes
    return files


def _write_safetensors(
    path: Path | None, params: dict, specs: Mapping[str, TensorSpec]
) -> None:
    """Write one file tensor by tensor; the safetensors library requires all at once.

    Format: header length (u64, little endian), JSON header, raw tensors.
    See https://github.com/huggingface/safetensors#format.
    """
    read: dict = {}
    if path is None:
        for spec in specs.values():
            _host_tensor(params, spec, read)
        return
    with open(path, "wb") as file:
        file.write(_header(specs.items()))
        for spec in specs.values():
            preemption.check()
            # A view as bytes, since bfloat16 has no buffer interface.
            file.write(_host_tensor(params, spec, read).view(np.uint8).data)


def _header(specs: Iterable[tuple[str, TensorSpec]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, spec in specs:
        end = offset + spec.bytes
        header[key] = {
            "dtype": STORED_DTYPES[spec.dtype.name],
            "shape": spec.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    return len(text).to_bytes(8, "little") + text
