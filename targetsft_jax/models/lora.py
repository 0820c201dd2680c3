"""Low-rank adapters: y = x·W + (alpha / rank) · (x·A)·B, with W frozen.

See "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. A and B are
parameters beside the kernel that they adapt, and `Projection` adds their product where
it finds them. Adapters alone are the tree that is trained; `attach` puts them into the
base's tree for a forward pass, and `merged` sums them into its kernels for an export.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig, num_parameters

Path = tuple[str, ...]


@dataclass(frozen=True)
class Lora:
    """The adapters of a model; static and hashable under jit.

    Attributes:
        rank: r, columns of A and rows of B.
        alpha: the product counts alpha / rank times.
        targets: names of the projections that have adapters, in every layer.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What the product of A and B is multiplied by."""
        return self.alpha / self.rank


def init_adapters(config: DecoderConfig, lora: Lora, key: jax.Array) -> dict:
    """Fresh adapters in float32: B zero, so that the model starts as its base.

    A is uniform in ±1/√in, which is PEFT's kaiming_uniform(a=√5).

    Returns:
        A nested dict: {"lora_a": [layers, in, r], "lora_b": [layers, r, out]} at each
        target's path in the parameters. Traceable, as `decoder.init_params`.

    Raises:
        ValueError: the model has no such target, or one is narrower than the rank.
    """
    found = _shapes(config, lora)
    keys = jax.random.split(key, len(found))

    def pair(shapes: dict, key: jax.Array) -> dict:
        bound = shapes["lora_a"][-2] ** -0.5
        a = jax.random.uniform(key, shapes["lora_a"], minval=-bound, maxval=bound)
        return {"lora_a": a, "lora_b": jnp.zeros(shapes["lora_b"])}

    return _tree((path, pair(found[path], key)) for path, key in zip(found, keys))


def logical_axes(config: DecoderConfig, lora: Lora) -> dict:
    """The tree of `init_adapters` with logical axis names: those of the kernels.

    The rank has none: it is too small to split.
    """
    axes = {
        path: module["kernel"]
        for path, module in _modules(decoder.logical_axes(config))
    }

    def pair(kernel: tuple[str | None, ...]) -> dict:
        *lead, source, target = kernel
        return {"lora_a": (*lead, source, None), "lora_b": (*lead, None, target)}

    return _tree((path, pair(axes[path])) for path in _shapes(config, lora))


def num_adapter_parameters(config: DecoderConfig, lora: Lora) -> int:
    """How many numbers the adapters hold."""
    return sum(
        math.prod(shape)
        for pair in _shapes(config, lora).values()
        for shape in pair.values()
    )


def trainable(config: DecoderConfig, lora: Lora) -> str:
    """What is trained and how much of all, in a line."""
    of_adapters = num_adapter_parameters(config, lora)
    total = num_parameters(config) + of_adapters
    return (
        f"lora rank {lora.rank}, alpha {lora.alpha:g} on {', '.join(lora.targets)}: "
        f"{of_adapters:,} of {total:,} parameters trained, "
        f"{100 * of_adapters / total:.2g} %"
    )


def attach(params: dict, adapters: dict, lora: Lora) -> dict:
    """The base's tree with its adapters in it, for `decoder.apply`; nothing is copied.

    The scale is in B, the smallest of what it could multiply.
    """

    def change(_: dict, pair: dict) -> dict:
        return {"lora_a": pair["lora_a"], "lora_b": pair["lora_b"] * lora.scale}

    return _changed(params, adapters, change)


def merged(params: dict, adapters: dict, lora: Lora, dtype: Any = None) -> dict:
    """The base's tree with every adapted kernel as a `Merged`, for an export.

    Args:
        params: the base; anything that gives a layer of a leaf as `leaf[layer]`.
        adapters: as trained, likewise.
        lora: their rank and scale.
        dtype: of the sums; that of each kernel when None.
    """

    def change(module: dict, pair: dict) -> dict:
        kernel = module["kernel"]
        wanted = jnp.dtype(kernel.dtype if dtype is None else dtype)
        a, b = pair["lora_a"], pair["lora_b"]
        return {"kernel": Merged(kernel, a, b, lora.scale, wanted)}

    return _changed(params, adapters, change)


@dataclass(frozen=True)
class Merged:
    """Kernels W + scale · A·B [layers, in, out] that are made a layer at a time.

    Summed in float32 and cast once: there is never a second model.
    """

    kernel: Any
    lora_a: Any
    lora_b: Any
    scale: float
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of W."""
        return self.kernel.shape

    def __getitem__(self, layer: int) -> jax.Array:
        """The kernel [in, out] of one layer."""
        kernel, a, b = (x[layer] for x in (self.kernel, self.lora_a, self.lora_b))
        return _sum(kernel, a, b, self.scale).astype(self.dtype)


@jax.jit
def _sum(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    # A TPU would multiply float32 in bfloat16 otherwise.
    product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return kernel.astype(jnp.float32) + scale * product


def _shapes(config: DecoderConfig, lora: Lora) -> dict[Path, dict]:
    """The shapes of each target's adapters, by its path in the parameters."""
    abstract = decoder.abstract_params(config)
    modules = {path: module["kernel"].shape for path, module in _modules(abstract)}
    names = dict.fromkeys(path[-1] for path in modules)
    missing = [name for name in lora.targets if name not in names]
    if missing:
        raise ValueError(
            f"lora.targets has {', '.join(missing)}, and the model's projections are "
            f"{', '.join(names)}"
        )
    found = {}
    for path, (*lead, source, target) in modules.items():
        if path[-1] not in lora.targets:
            continue
        narrow = min(source, target)
        if lora.rank > narrow:
            raise ValueError(
                f"lora.rank is {lora.rank}, and {'.'.join(path)} is {source} x "
                f"{target}; expected at most {narrow}"
            )
        found[path] = {
            "lora_a": (*lead, source, lora.rank),
            "lora_b": (*lead, lora.rank, target),
        }
    return found


def _modules(tree: dict, path: Path = ()) -> Iterator[tuple[Path, dict]]:
    """Every projection of a tree shaped as the parameters, with its path."""
    if "kernel" in tree:
        yield path, tree
        return
    for name, part in tree.items():
        if isinstance(part, dict):
            yield from _modules(part, (*path, name))


def _changed(
    params: dict, adapters: dict, change: Callable[[dict, dict], dict]
) -> dict:
    """The parameters with `change(module, its adapters)` over each adapted module."""
    if "lora_a" in adapters:
        return params | change(params, adapters)
    return params | {
        name: _changed(params[name], part, change) for name, part in adapters.items()
    }


def _tree(leaves: Iterable[tuple[Path, dict]]) -> dict:
    tree: dict = {}
    for path, leaf in leaves:
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return tree
