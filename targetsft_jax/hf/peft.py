"""Export LoRA adapters in PEFT's format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.hf.sidecar_files import CARD_FILE, copy_tokenizer
from targetsft_jax.hf.tensor_map import ParameterSlice, checkpoint_tensors
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel import processes
from targetsft_jax.storage import atomic, manifest

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(
    folder: str | Path,
    config: DecoderConfig,
    adapters: dict,
    lora: Lora,
    *,
    base: str,
    like: Path | None = None,
    card: str | None = None,
) -> None:
    """Write adapters, their config, tokenizer and model card, atomically.

    PEFT stores A as [r, in] and B as [out, r] in float32, one pair per layer. The rank
    of a fused module is the sum of the ranks of its projections.
    Every process of a multi-process job must call this; the primary process writes.

    Args:
        folder: the target. An existing one is replaced only if it is empty or an
            earlier export without a changed or additional file.
        config: the decoder.
        adapters: the tree of `init_adapters`, sharded or not.
        lora: their rank, scale and targets.
        base: local folder or hub id of the adapted model.
        like: folder whose tokenizer and chat template are copied.
        card: text of README.md; None for no file.

    Raises:
        FileExistsError: the target exists and is not an export, or was changed.
    """
    folder = Path(folder).resolve()
    tensors, ranks = _tensors(config, adapters, lora)
    if processes.is_primary():
        with atomic.folder(folder, manifest.check_replaceable) as partial:
            _write(partial, tensors, _adapter_config(lora, ranks, base))
            if like is not None:
                copy_tokenizer(like, partial)
            if card is not None:
                (partial / CARD_FILE).write_text(card, encoding="utf-8")
            manifest.write(partial)
    processes.barrier(f"exported {folder}")


def _tensors(
    config: DecoderConfig, adapters: dict, lora: Lora
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """PEFT's tensors by key, and the rank of each module by its name."""
    tensors, ranks = {}, {}
    for key, parts in checkpoint_tensors(config, modules=True).items():
        pairs = [(part, _pair(adapters, part.path)) for part in parts]
        adapted = [(part, pair) for part, pair in pairs if pair is not None]
        if not adapted:
            continue
        module = key.removesuffix(".weight")
        ranks[module.rpartition(".")[2]] = lora.rank * len(adapted)
        a, b = _stacked(adapted, parts[-1])
        for name, value in (("lora_A", a), ("lora_B", b)):
            # safetensors writes the memory layout of an array.
            value = np.ascontiguousarray(value)
            tensors[f"base_model.model.{module}.{name}.weight"] = value
    return tensors, ranks


def _adapter_config(lora: Lora, ranks: dict[str, int], base: str) -> dict[str, Any]:
    fused = {name: rank for name, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(ranks),
        "rank_pattern": fused,
        "alpha_pattern": {name: lora.scale * rank for name, rank in fused.items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _stacked(
    adapted: Sequence[tuple[ParameterSlice, dict]], last: ParameterSlice
) -> tuple[np.ndarray, np.ndarray]:
    """A [r, in] and B [out, r] of one checkpoint tensor.

    For a fused tensor, A = (A_1; A_2; …) and B is block-diagonal: each parameter has
    separate rows of A, and separate columns of B in its rows of the tensor.

    Args:
        adapted: parameter slices with adapters, each with its adapters.
        last: last slice of the tensor, with or without adapters.
    """
    a, b = (
        [
            processes.to_host(pair[name][part.layer]).astype(np.float32).T
            for part, pair in adapted
        ]
        for name in ("lora_a", "lora_b")
    )
    if last.rows is None:
        return a[0], b[0]
    ranks = [x.shape[0] for x in a]
    blocks = np.zeros((last.rows[1], sum(ranks)), np.float32)
    for number, (part, _) in enumerate(adapted):
        assert part.rows is not None
        first = sum(ranks[:number])
        blocks[slice(*part.rows), first : first + ranks[number]] = b[number]
    return np.concatenate(a), blocks


def _pair(adapters: dict, path: tuple[str, ...]) -> dict | None:
    """Adapters of the kernel at a path, or None."""
    *modules, leaf = path
    tree: dict | None = adapters
    for name in modules:
        tree = tree.get(name) if tree else None
    return tree if leaf == "kernel" else None


def _write(
    folder: Path, tensors: dict[str, np.ndarray], document: dict[str, Any]
) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(document, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
