"""Write a Hugging Face checkpoint that transformers, vLLM and this package load."""

import json
import math
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.hf.config_json import config_to_json
from targetsft_jax.hf.families import places
from targetsft_jax.hf.importer import INDEX_FILE, SINGLE_FILE
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_pretrained(
    folder: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    tokenizer=None,
    dtype=None,
    max_shard_bytes: int = 5_000_000_000,
    extra_config: dict | None = None,
) -> None:
    """Write config, weights and tokenizer in the Hugging Face layout.

    Tensors go through host memory one at a time. Everything is written into a sibling
    folder which then takes the target's name, so a target is whole or absent. Every
    process of a multi-process job must call this; the first one writes.

    Args:
        folder: the target. An existing one is replaced only when it is empty or an
            earlier export (it has a config.json and no folders inside).
        config: the decoder.
        params: the tree of `init_params`, sharded or not.
        tokenizer: a transformers tokenizer, saved with its chat template; its special
            token ids go into the config. None writes no tokenizer.
        dtype: stored dtype, float32, float16 or bfloat16; the parameters' own when
            None.
        max_shard_bytes: tensor bytes in one safetensors file; more are split over
            files with an index. A single larger tensor has a file of its own.
        extra_config: more keys for config.json.

    Raises:
        FileExistsError: the target exists and is not an export.
        ValueError: parameters that do not fit the config, a dtype that cannot be
            stored, a tokenizer larger than the vocabulary, or an extra key that would
            contradict the config.
    """
    folder = Path(folder).resolve()
    _check_target(folder)
    specs = _specs(config, params, dtype)
    widest = jnp.result_type(*(spec["dtype"] for spec in specs.values()))
    document = config_to_json(config, widest.name)
    extra_config = extra_config or {}
    ids = _special_ids(config, tokenizer)
    ids |= {name: extra_config[name] for name in _IDS if name in extra_config}
    clash = sorted(key for key in extra_config if key in document)
    if clash:
        raise ValueError(
            f"extra_config may not set {', '.join(clash)}: the decoder's config does."
        )
    partial = folder.with_name(f".{folder.name}.partial")
    writes = jax.process_index() == 0
    if writes:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _write_weights(partial if writes else None, params, specs, max_shard_bytes)
    if writes:
        _write_json(partial / "config.json", {**document, **ids, **extra_config})
        known = {name: value for name, value in ids.items() if value is not None}
        _write_json(partial / "generation_config.json", known)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        _replace(folder, partial)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def _specs(config, params, dtype):
    """Per tensor key: our leaf's place, the stored shape and dtype."""
    abstract = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))

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
    for key, place in places(config).items():
        leaf = _leaf(params, place.path)
        shape = leaf.shape if place.layer is None else leaf.shape[1:]
        stored = np.dtype(leaf.dtype if dtype is None else dtype)
        if stored.name not in _DTYPES:
            raise ValueError(
                f"{key} would be stored as {stored.name}; choose dtype from "
                f"{', '.join(_DTYPES)}."
            )
        shape = shape[::-1] if place.transposed else shape
        specs[key] = {"place": place, "shape": tuple(shape), "dtype": stored}
    return specs


def _leaf(params, path):
    for name in path:
        params = params[name]
    return params


def _to_host(params, spec):
    """One checkpoint tensor as numpy, gathered over processes where it must be."""
    place = spec["place"]
    leaf = _leaf(params, place.path)
    value = leaf if place.layer is None else leaf[place.layer]
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    value = np.asarray(value).astype(spec["dtype"])
    return np.ascontiguousarray(value.T if place.transposed else value)


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
        _write_json(folder / INDEX_FILE, index)


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
            _to_host(params, spec)
        return
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs.values():
            # A view as bytes: bfloat16 has no buffer interface of its own.
            file.write(_to_host(params, spec).view(np.uint8).data)


def _bytes(spec):
    return math.prod(spec["shape"]) * spec["dtype"].itemsize


def _special_ids(config, tokenizer):
    """Ids for config.json; null, not absent, where there is none: an absent one would
    take the reader's default (Llama's end of text is then token 2)."""
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries and the model's vocab_size "
            f"is {config.vocab_size}; they do not belong together."
        )
    return {name: getattr(tokenizer, name, None) for name in _IDS}


def _check_target(folder):
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to export into.")
    inside = list(folder.iterdir())
    ours = (folder / "config.json").is_file() and not any(p.is_dir() for p in inside)
    if inside and not ours:
        raise FileExistsError(
            f"{folder} exists and is not a model export (no config.json, or folders "
            "inside); it would be deleted, so name another one or remove it."
        )


def _replace(folder, partial):
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path, document):
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
