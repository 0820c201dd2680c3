"""Write adapters in PEFT's format, as a folder that is loaded over their base."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.hf.families import places
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(
    folder: str | Path,
    config: DecoderConfig,
    adapters: dict,
    lora: Lora,
    *,
    base: str,
) -> None:
    """Write adapter_model.safetensors and adapter_config.json.

    PEFT keeps A as [r, in] and B as [out, r], one of each a layer; both are float32.
    Written into a sibling folder which then takes the target's name. Every process of
    a multi-process job must call this; the first one writes.

    Args:
        folder: the target. An existing one is replaced if it holds nothing else.
        config: the decoder.
        adapters: the tree of `init_adapters`, sharded or not.
        lora: their rank, scale and targets.
        base: local folder or hub id of the model that they adapt.

    Raises:
        FileExistsError: the target exists and holds other files.
    """
    folder = Path(folder).resolve()
    tensors, modules = {}, {}
    for key, place in places(config).items():
        *path, leaf = place.path
        pair = _at(adapters, path)
        if leaf != "kernel" or pair is None:
            continue
        module = key.removesuffix(".weight")
        modules[module.rpartition(".")[2]] = None
        for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
            name = f"base_model.model.{module}.{theirs}.weight"
            tensors[name] = np.ascontiguousarray(_to_host(pair[ours][place.layer]).T)
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    if jax.process_index() == 0:
        _write(folder, tensors, document)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def _at(tree, path):
    """What is at a path, or None."""
    for name in path:
        tree = tree.get(name) if tree else None
    return tree


def _to_host(x):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x, np.float32)


def _write(folder, tensors, document):
    from safetensors.numpy import save_file

    foreign = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name not in (CONFIG_FILE, WEIGHTS_FILE)
    )
    if foreign or folder.is_file():
        raise FileExistsError(
            f"{folder} exists and would be deleted, but holds what no adapter's export "
            f"writes: {', '.join(foreign) or 'it is a file'}. Move it, or name another "
            "folder."
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(document, indent=2) + "\n"
    (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
