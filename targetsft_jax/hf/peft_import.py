"""Import LoRA adapters in PEFT's format, of any trainer."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.hf.peft import CONFIG_FILE, WEIGHTS_FILE
from targetsft_jax.hf.tensor_files import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    StoredTensor,
    open_tensor_file,
    read_json,
)
from targetsft_jax.hf.tensor_map import ParameterSlice, checkpoint_tensors
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora

_PREFIX = "base_model.model."

_REFUSED = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "velora_config",
    "monteclora_config",
)
"""Settings that make an adapter more than W + scale · B·A."""

_NEW_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base model."""

_SHOWN = 5


@dataclass(frozen=True)
class PeftAdapter:
    """A folder with adapters; its tensors are not in memory.

    Attributes:
        folder: the folder.
        base: path or hub id of the base model, as the folder names it.
        document: content of adapter_config.json.
    """

    folder: Path
    base: str
    document: Mapping[str, Any]

    def load(self, config: DecoderConfig) -> tuple[dict[str, Any], Lora]:
        """Read the adapters: the tree of `lora.init_adapters`, and their scale.

        The rank is the largest of all modules; smaller ones are padded with zeros.

        Args:
            config: the decoder of the base model.

        Raises:
            FileNotFoundError: no adapter_model.safetensors.
            ValueError: damaged files, or tensors that do not fit the base model.
        """
        tensors = self._tensors()
        pairs: dict[tuple[str, ...], dict[int, _Pair]] = {}
        shapes = decoder.abstract_params(config)
        for key, parts in checkpoint_tensors(config, modules=True).items():
            module = key.removesuffix(".weight")
            names = [f"{_PREFIX}{module}.lora_{x}.weight" for x in "AB"]
            if names[0] not in tensors or parts[0].path[-1] != "kernel":
                continue
            a, b = (self._matrix(tensors, name) for name in names)
            scale = self._scale(module, a.shape[0])
            for part in parts:
                rows = slice(None) if part.rows is None else slice(*part.rows)
                pair = _Pair(a.T, b[rows].T, scale)
                self._check(module, pair, part, shapes)
                assert part.layer is not None
                pairs.setdefault(part.path, {})[part.layer] = pair
        if tensors or not pairs:
            self._refuse(sorted(tensors), config)
        return _stacked(pairs, config.num_layers)

    def _tensors(self) -> dict[str, StoredTensor]:
        path = self.folder / WEIGHTS_FILE
        if not path.is_file():
            names = sorted(x.name for x in self.folder.iterdir() if x.is_file())
            raise FileNotFoundError(
                f"{path} does not exist (found: {', '.join(names[:8])}); expected an "
                "adapter in safetensors. PEFT's save_pretrained writes it"
            )
        return open_tensor_file(path)

    def _matrix(self, tensors: dict[str, StoredTensor], name: str) -> np.ndarray:
        tensor = tensors.pop(name, None)
        is_matrix = tensor is not None and len(tensor.shape) == 2 and all(tensor.shape)
        if tensor is None or tensor.dtype not in DTYPES or not is_matrix:
            found = "absent" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise ValueError(
                f"{self.folder / WEIGHTS_FILE}: {name} is {found}; expected a matrix "
                f"of {', '.join(DTYPES)}"
            )
        return tensor.rows(0, tensor.shape[0]).astype(np.float32)

    def _scale(self, module: str, rank: int) -> float:
        """Factor of B·A of a module, as PEFT computes it."""
        patterns = self.document.get("alpha_pattern") or {}
        alpha = self.document.get("lora_alpha", 8)
        try:
            for pattern, value in patterns.items():
                if re.match(rf"(.*\.)?({pattern})$", module):
                    alpha = value
                    break
            is_root = bool(self.document.get("use_rslora"))
            return float(alpha) / (math.sqrt(rank) if is_root else rank)
        except (re.error, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.folder / CONFIG_FILE}: lora_alpha or alpha_pattern is not as "
                f"PEFT writes it ({error})"
            ) from None

    def _check(
        self, module: str, pair: "_Pair", part: ParameterSlice, shapes: Any
    ) -> None:
        for name in part.path:
            shapes = shapes[name]
        expected = shapes.shape[1:]
        if (pair.a.shape[0], pair.b.shape[1]) != expected or (
            pair.a.shape[1] != pair.b.shape[0]
        ):
            raise ValueError(
                f"{self.folder}: the adapter of {module} has A {pair.a.shape[::-1]} "
                f"and B {pair.b.shape[::-1]}, which do not fit the base's "
                f"{expected[::-1]}; is {self.base} the base that it was trained on?"
            )

    def _refuse(self, rest: list[str], config: DecoderConfig) -> None:
        more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
        found = f"{', '.join(rest[:_SHOWN])}{more}" if rest else "no tensor"
        raise ValueError(
            f"{self.folder / WEIGHTS_FILE} has {found}; expected lora_A and lora_B of "
            f"the projections of a {config.model_type} with {config.num_layers} "
            "layers. Merge the adapter with PEFT (merge_and_unload) and load the "
            "merged model"
        )


def is_adapter(folder: Path) -> bool:
    """True for a folder with PEFT's adapters and no complete model."""
    weights = (SINGLE_FILE, INDEX_FILE)
    is_model = any((folder / name).is_file() for name in weights)
    return (folder / CONFIG_FILE).is_file() and not is_model


def open_adapter(folder: Path) -> PeftAdapter:
    """Read and check the adapter_config.json of a folder.

    Raises:
        ValueError: no LoRA, a variant of it that is not a sum of W and a product, or no
            name of the base model.
    """
    path = folder / CONFIG_FILE
    document = read_json(path)
    merge = "merge it with PEFT (merge_and_unload) and load the merged model"
    kind = document.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type is {kind!r}; expected 'LORA', or {merge}")
    refused = [name for name in _REFUSED if document.get(name)]
    if document.get("bias") not in (None, "none"):
        refused.append("bias")
    start = document.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_NEW_BASE):
        refused.append("init_lora_weights")
    if refused:
        settings = ", ".join(f"{name} = {document[name]!r}" for name in refused)
        raise ValueError(
            f"{path} has {settings}, which is not implemented; expected plain LoRA, "
            f"or {merge}"
        )
    base = document.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise ValueError(
            f"{path}: base_model_name_or_path is {base!r}; expected the path or hub id "
            "of the base model"
        )
    return PeftAdapter(folder, base, document)


@dataclass(frozen=True)
class _Pair:
    """A [in, r] and B [r, out] of one layer, with their scale."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def _stacked(
    pairs: Mapping[tuple[str, ...], Mapping[int, _Pair]], layers: int
) -> tuple[dict[str, Any], Lora]:
    """Adapters by path with a leading axis of layers, and their common scale."""
    every = [pair for by_layer in pairs.values() for pair in by_layer.values()]
    rank = max(pair.a.shape[1] for pair in every)
    scale = every[0].scale
    tree: dict[str, Any] = {}
    for path, by_layer in pairs.items():
        first = next(iter(by_layer.values()))
        a = np.zeros((layers, first.a.shape[0], rank), np.float32)
        b = np.zeros((layers, rank, first.b.shape[1]), np.float32)
        for layer, pair in by_layer.items():
            own = pair.a.shape[1]
            a[layer, :, :own] = pair.a
            # Exact where all modules have one scale.
            b[layer, :own] = pair.b * np.float64(pair.scale / scale)
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner |= {"lora_a": a, "lora_b": b}
    targets = tuple(_names(pairs))
    return tree, Lora(rank, scale * rank, targets)


def _names(pairs: Mapping[tuple[str, ...], Any]) -> Iterator[str]:
    """Names of the adapted projections, such as q and down."""
    yield from dict.fromkeys(path[-2] for path in pairs)
