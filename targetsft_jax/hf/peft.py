"""Write adapters in PEFT's format, as a folder that is loaded over their base."""

import json
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.hf.families import places
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.processes import to_host
from targetsft_jax.storage import atomic

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

    PEFT keeps A as [r, in] and B as [out, r], one of each a layer; both are float32. A
    module whose weight several of our projections share has the sum of their ranks.
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
    tensors, ranks = {}, {}
    for key, parts in places(config).items():
        pairs = [(place, _at(adapters, place.path)) for place in parts]
        adapted = [(place, pair) for place, pair in pairs if pair is not None]
        if not adapted:
            continue
        module = key.removesuffix(".weight")
        ranks[module.rpartition(".")[2]] = lora.rank * len(adapted)
        a, b = _stacked(adapted, parts[-1])
        for name, value in (("lora_A", a), ("lora_B", b)):
            # The file's writer takes the memory as it lies.
            value = np.ascontiguousarray(value)
            tensors[f"base_model.model.{module}.{name}.weight"] = value
    shared = {name: rank for name, rank in ranks.items() if rank != lora.rank}
    alphas = {name: lora.scale * rank for name, rank in shared.items()}
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(ranks),
        "rank_pattern": shared,
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    if jax.process_index() == 0:
        _write(folder, tensors, document)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {folder}")


def _stacked(adapted, last):
    """A [r, in] and B [out, r] of one checkpoint tensor.

    Where several parameters share its rows, each keeps its own columns of B: A has the
    rows of all of them, and what one does not reach of B is zero.
    """
    a, b = (
        [
            to_host(pair[name][place.layer]).astype(np.float32).T
            for place, pair in adapted
        ]
        for name in ("lora_a", "lora_b")
    )
    if last.rows is None:
        return a[0], b[0]
    ranks = [x.shape[0] for x in a]
    whole = np.zeros((last.rows[1], sum(ranks)), np.float32)
    for number, (place, _) in enumerate(adapted):
        first = sum(ranks[:number])
        whole[slice(*place.rows), first : first + ranks[number]] = b[number]
    return np.concatenate(a), whole


def _at(adapters, path):
    """The adapters of the kernel at a path, or None."""
    *path, leaf = path
    for name in path:
        adapters = adapters.get(name) if adapters else None
    return adapters if leaf == "kernel" else None


def _write(folder, tensors, document):
    from safetensors.numpy import save_file

    with atomic.folder(folder, _check_target) as partial:
        save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(document, indent=2) + "\n"
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")


def _check_target(folder):
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
