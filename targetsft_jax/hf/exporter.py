"""Write a Hugging Face checkpoint that transformers, vLLM and this package load."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.hf.export_folder import check_export
from targetsft_jax.hf.families import places
from targetsft_jax.hf.shard_reader import cast_into
from targetsft_jax.hf.sidecar_files import write_description
from targetsft_jax.hf.tensor_files import INDEX_FILE, SINGLE_FILE
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params
from targetsft_jax.parallel.processes import to_host
from targetsft_jax.storage import atomic

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_pretrained(
    folder: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    like: str | Path | None = None,
    tokenizer=None,
    card: str | None = None,
    dtype=None,
    max_shard_bytes: int = 5_000_000_000,
    extra_config: dict | None = None,
) -> None:
    """Write config, weights and tokenizer in the Hugging Face layout.

    Tensors go through host memory one at a time. Everything is written into a sibling
    folder which then takes the target's name at one instant, so a target is whole or
    absent. A `tokenizer` is read back with AutoTokenizer before that, because
    transformers makes another one of it for some model types. Every process of a
    multi-process job must call this; the first one writes.

    Args:
        folder: the target. An existing one is replaced only when it is empty or an
            earlier export (it has a config.json and nothing that no export writes; a
            README.md that was edited is not an export's).
        config: the decoder.
        params: the tree of `init_params`, sharded or not. A leaf may be anything with
            a shape and a dtype that gives one layer as `leaf[layer]` (under "layers")
            or itself as `np.asarray(leaf)`: it is asked for one tensor at a time, a
            leaf's layers in order.
        like: the model folder that the parameters come from. What its config.json
            says beyond the decoder's config is kept, its generation_config.json and
            tokenizer files are copied.
        tokenizer: a transformers tokenizer, saved with its chat template, in place of
            the files of `like`. Without `like`, its special token ids go into the
            config.
        card: text of the model card, README.md.
        dtype: stored dtype, float32, float16 or bfloat16; the parameters' own when
            None.
        max_shard_bytes: tensor bytes in one safetensors file; more are split over
            files with an index. A single larger tensor has a file of its own.
        extra_config: more keys for config.json.

    Raises:
        FileExistsError: the target exists and is not an export, or holds other files
            as well.
        ValueError: parameters that do not fit the config, a dtype that cannot be
            stored, a tokenizer larger than the vocabulary or one that AutoTokenizer
            does not give back, or an extra key that would contradict the config.
        RuntimeError: in the other processes, where the first one raised.
    """
    folder = Path(folder).resolve()
    specs = _specs(config, params, dtype)
    widest = jnp.result_type(*(spec["dtype"] for spec in specs.values()))
    writes = jax.process_index() == 0
    partial, refusal = None, None
    if writes:
        # All but the weights, which take the time, and which no process begins to
        # gather before all of them know that the first one goes on.
        try:
            partial = atomic.begin(folder, check_export)
            write_description(
                partial,
                config,
                widest.name,
                like=None if like is None else Path(like),
                tokenizer=tokenizer,
                card=card,
                extra_config=extra_config,
            )
        except Exception as error:
            if partial is not None:
                atomic.abandon(partial)
            refusal = error
    _agree(refusal, folder)
    try:
        _write_weights(partial, params, specs, max_shard_bytes)
        if writes:
            atomic.finish(partial, folder)
    except BaseException:
        if writes:
            atomic.abandon(partial)
        raise
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def _agree(refusal, folder):
    """Raise in every process if the first one could not begin; the others would wait
    for it for ever."""
    refused = refusal is not None
    if jax.process_count() > 1:
        refused = bool(multihost_utils.broadcast_one_to_all(np.asarray(refused)))
    if refusal is not None:
        raise refusal
    if refused:
        raise RuntimeError(
            f"process 0 could not begin the export into {folder}; its own error says "
            "why."
        )


def _specs(config, params, dtype):
    """Per tensor key: the places of our leaves, the stored shape and dtype."""
    abstract = abstract_params(config)

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            tuple(entry.key for entry in path): tuple(leaf.shape)
            for path, leaf in leaves
        }

    wanted, found = shapes(abstract), shapes(params)
    problems = [
        f"{'.'.join(path)}: found {found.get(path, 'nothing')}, "
        f"expected {wanted.get(path, 'nothing')}"
        for path in sorted({*wanted, *found})
        if wanted.get(path) != found.get(path)
    ]
    if problems:
        raise ValueError(
            "the parameters do not fit the config:\n  " + "\n  ".join(problems)
        )
    specs = {}
    for key, parts in places(config).items():
        place = parts[-1]
        leaf = _leaf(params, place.path)
        shape = leaf.shape if place.layer is None else leaf.shape[1:]
        stored = np.dtype(leaf.dtype if dtype is None else dtype)
        if stored.name not in _DTYPES:
            raise ValueError(
                f"{key} would be stored as {stored.name}; choose dtype from "
                f"{', '.join(_DTYPES)}."
            )
        shape = shape[::-1] if place.transposed else shape
        if place.rows is not None:
            # The last part ends where the tensor does.
            shape = (place.rows[1], *shape[1:])
        specs[key] = {"parts": parts, "shape": tuple(shape), "dtype": stored}
    return specs


def _leaf(params, path):
    for name in path:
        params = params[name]
    return params


def _host_tensor(params, spec):
    """One checkpoint tensor as numpy, gathered over processes where it must be."""
    tensor = np.empty(spec["shape"], spec["dtype"])
    for place in spec["parts"]:
        leaf = _leaf(params, place.path)
        value = leaf if place.layer is None else leaf[place.layer]
        value = to_host(value)
        if value.dtype == tensor.dtype and value.shape == tensor.shape:
            if not place.transposed:
                return np.ascontiguousarray(value)  # with no second copy
        rows = slice(*(place.rows or (None,)))
        cast_into(tensor[rows], value, transposed=place.transposed)
    return tensor


def _write_weights(folder, params, specs, max_shard_bytes):
    files = [[]]
    room = max_shard_bytes
    for key, spec in specs.items():
        size = _bytes(spec)
        if size > room and files[-1]:
            files.append([])
            room = max_shard_bytes
        files[-1].append(key)
        room -= size
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
        metadata = {"total_size": sum(map(_bytes, specs.values()))}
        index = {"metadata": metadata, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_safetensors(path, params, specs):
    """One file, tensor by tensor; the library's own writer wants them all at once.

    Format: header length (u64, little endian), JSON header, raw tensors. With no path
    (a process that does not write) only takes part in the gathers.
    See https://github.com/huggingface/safetensors#format.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for key, spec in specs.items():
        end = offset + _bytes(spec)
        header[key] = {
            "dtype": _DTYPES[spec["dtype"].name],
            "shape": spec["shape"],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    if path is None:
        for spec in specs.values():
            _host_tensor(params, spec)
        return
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs.values():
            # A view as bytes: bfloat16 has no buffer interface of its own.
            file.write(_host_tensor(params, spec).view(np.uint8).data)


def _bytes(spec):
    return math.prod(spec["shape"]) * spec["dtype"].itemsize
