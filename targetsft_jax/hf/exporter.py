"""Write a Hugging Face checkpoint that transformers, vLLM and this package load."""

import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.hf.config_json import config_to_json
from targetsft_jax.hf.families import places
from targetsft_jax.hf.tensor_files import INDEX_FILE, SINGLE_FILE
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# What an export, its tokenizer included, may consist of: what is not here is somebody
# else's, and an export that would delete it is refused.
_OUR_FILES = {
    "config.json",
    "generation_config.json",
    SINGLE_FILE,
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
}
_OUR_SHARDS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

# Encoded by the tokenizer and by what AutoTokenizer makes of it. Splitting of digits,
# spaces and letters, and normalisation (the accent is a character of its own) show.
_PROBE = "  It costs 12.5 mg/kg;\n\n\tx² = 1 → \\boxed{42} — e\u0301té, 剂量, 🙂🏽"


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
    folder which then takes the target's name, so a target is whole or absent. The
    tokenizer is read back with AutoTokenizer before that, because transformers makes
    another one of it for some model types. Every process of a multi-process job must
    call this; the first one writes.

    Args:
        folder: the target. An existing one is replaced only when it is empty or an
            earlier export (it has a config.json and nothing that no export writes).
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
    refusal = None
    if writes:
        # All but the weights, which take the time, and which no process begins to
        # gather before all of them know that the first one goes on.
        try:
            _check_target(folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            known = {name: value for name, value in ids.items() if value is not None}
            _write_json(partial / "generation_config.json", known)
            document |= {**ids, **extra_config}
            _write_description(partial, document, tokenizer)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            refusal = error
    _agree(refusal, folder)
    _write_weights(partial if writes else None, params, specs, max_shard_bytes)
    if writes:
        _replace(folder, partial)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def prove_exportable(config: DecoderConfig, tokenizer) -> None:
    """ValueError unless an export's tokenizer would come back as it is.

    `save_pretrained` proves the same; asking first spares a training whose end it
    would spoil.
    """
    document = config_to_json(config, "float32") | _special_ids(config, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        _write_description(Path(folder), document, tokenizer)


def _write_description(folder, document, tokenizer):
    """config.json and the tokenizer's files, proved to give the tokenizer back."""
    _write_json(folder / "config.json", document)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        _prove_tokenizer(folder, tokenizer, document["model_type"])


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


def _prove_tokenizer(folder, tokenizer, model_type):
    """ValueError unless AutoTokenizer makes the same tokenizer of the folder.

    transformers chooses the class by model_type, and for some of them (qwen2 is one)
    it builds that family's tokenizer around the file's vocabulary, whatever class
    wrote it: another splitting, another normalisation, more tokens.
    """
    from transformers import AutoTokenizer

    try:
        back = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # whatever it trips over, a reader would as well
        made, different = "nothing", [f"{type(error).__name__}: {error}"]
    else:
        made, different = f"a {type(back).__name__}", _different(tokenizer, back)
    if different:
        raise ValueError(
            f"the tokenizer ({type(tokenizer).__name__}) would not survive the export: "
            f"of its files and model_type {model_type!r}, AutoTokenizer makes {made} "
            f"that differs from it:\n  " + "\n  ".join(different) + "\n"
            "Nothing was exported. Use a tokenizer made for this model_type, or a "
            "model of model_type 'llama' (with qkv_bias False), which keeps any "
            "tokenizer.json; or export with tokenizer=None and save the tokenizer in "
            "a folder of its own."
        )


def _different(ours, back, show=3):
    """What `back` has otherwise than `ours`, as lines to print."""
    lines = []
    a, b = ours.get_vocab(), back.get_vocab()
    tokens = [token for token in {**a, **b} if a.get(token) != b.get(token)]
    lines += [
        f"token {token!r}: {a.get(token, 'absent')} before, "
        f"{b.get(token, 'absent')} after"
        for token in sorted(tokens)[:show]
    ]
    if len(tokens) > show:
        lines.append(f"and {len(tokens) - show} more tokens")
    for name in (*_IDS, "chat_template"):
        before, after = getattr(ours, name, None), getattr(back, name, None)
        if before != after:
            lines.append(f"{name}: {before!r} before, {after!r} after")
    before, after = (_encoded(tokenizer) for tokenizer in (ours, back))
    at = next((n for n, (x, y) in enumerate(zip(before, after)) if x != y), None)
    if before != after:
        at = min(len(before), len(after)) if at is None else at
        lines.append(
            f"ids of a sample text: {before[at : at + 6]} before, "
            f"{after[at : at + 6]} after, from id {at} on"
        )
    return lines


def _encoded(tokenizer):
    return list(tokenizer(_PROBE + (tokenizer.eos_token or "") + "a")["input_ids"])


def _check_target(folder):
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder to export into.")
    inside = sorted(folder.iterdir())
    if not inside:
        return
    foreign = [p.name + "/" * p.is_dir() for p in inside if not _ours(p)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise FileExistsError(
            f"{folder} exists and would be deleted, but holds what no export writes: "
            f"{', '.join(foreign[:5])}{more}. Move them out, or name another folder."
        )
    if not (folder / "config.json").is_file():
        raise FileExistsError(
            f"{folder} exists and would be deleted, but is not a model export (no "
            "config.json). Name another folder, or remove it."
        )


def _ours(path):
    name = path.name
    if path.is_dir():
        return name == "additional_chat_templates"  # of a tokenizer with several
    return name in _OUR_FILES or _OUR_SHARDS.fullmatch(name) is not None


def _replace(folder, partial):
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path, document):
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
