"""Low-rank adapters (LoRA): y = x·W + (alpha / rank) · (x·A)·B, with W frozen.

See "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. A and B are
siblings of their kernel in the parameter tree, and `Projection` adds their product. The
trained tree has adapters only: `attach` inserts them into the base's tree
for a forward pass, and `merged` adds them to its kernels for an export.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.models.layers import KEY_IMPL
from targetsft_jax.parallel.processes import to_host

Path = tuple[str, ...]

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
"""Names of the decoder's projections that may have adapters."""


@dataclass(frozen=True)
class Lora:
    """Adapters of a model; static and hashable under jit.

    Attributes:
        rank: r, columns of A and rows of B.
        alpha: the product A·B is multiplied by alpha / rank.
        targets: names of the adapted projections, in every layer.
        dropout: share of the inputs of each adapter that a train step sets to 0.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """Factor of the product A·B."""
        return self.alpha / self.rank


def init_adapters(config: DecoderConfig, lora: Lora, key: jax.Array) -> dict:
    """Initial adapters in float32: A uniform in ±1/√in, B zero.

    The model starts equal to its base. A follows PEFT's kaiming_uniform(a=√5).

    Returns:
        A nested dict: {"lora_a": [layers, in, r], "lora_b": [layers, r, out]} at each
        target's path in the parameters. Traceable, as `decoder.init_params`.

    Raises:
        ValueError: the model has no such target, or one is narrower than the rank.
    """
    adapter_shapes = _shapes(config, lora)
    keys = jax.random.split(key, len(adapter_shapes))

    def pair(shapes: dict, key: jax.Array) -> dict:
        bound = shapes["lora_a"][-2] ** -0.5
        a = jax.random.uniform(key, shapes["lora_a"], minval=-bound, maxval=bound)
        return {"lora_a": a, "lora_b": jnp.zeros(shapes["lora_b"])}

    return _tree(
        (path, pair(shapes, key))
        for (path, shapes), key in zip(adapter_shapes.items(), keys)
    )


def logical_axes(config: DecoderConfig, lora: Lora) -> dict:
    """Logical axis names of the adapters: those of their kernels, None for the rank.

    Returns:
        The tree of `init_adapters` with a tuple of names at each leaf.
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
    """Number of parameters of the adapters."""
    return sum(
        math.prod(shape)
        for pair in _shapes(config, lora).values()
        for shape in pair.values()
    )


def trainable(config: DecoderConfig, lora: Lora) -> str:
    """One line with the rank, the targets and the fraction of parameters trained."""
    trained = num_adapter_parameters(config, lora)
    total = decoder.num_parameters(config) + trained
    dropout = f", dropout {lora.dropout:g}" if lora.dropout else ""
    return (
        f"lora rank {lora.rank}, alpha {lora.alpha:g}{dropout} on "
        f"{', '.join(lora.targets)}: "
        f"{trained:,} of {total:,} parameters trained, "
        f"{100 * trained / total:.2g} %"
    )


def attach(
    params: dict,
    adapters: dict,
    lora: Lora,
    row_keys: jax.Array | None = None,
    slots: jax.Array | np.ndarray | None = None,
) -> dict:
    """The base's tree with its adapters, for `decoder.apply`; the base is not copied.

    The scale is folded into B, so that no activation is multiplied by it; with dropout,
    also the factor 1 / (1 − rate) of the inputs that remain.

    Args:
        params: the base.
        adapters: the tree of `init_adapters`.
        lora: rank, scale and dropout.
        row_keys: [B, 2] uint32, the keys of the batch's rows (`dropout_keys`); None: no
            dropout, as in evaluation.
        slots: [L] int32, place of each token in its row, with row keys: a token has the
            same mask wherever the row's tokens are.
    """
    threshold = 0 if row_keys is None else round(lora.dropout * 2**32)
    scale = lora.scale / (1 - threshold / 2**32)

    def with_adapters(path: Path, _: dict, pair: dict) -> dict:
        a, b = pair["lora_a"], pair["lora_b"]
        leaves = {"lora_a": a, "lora_b": b * scale}
        if row_keys is None:
            return leaves
        assert slots is not None, "row_keys need slots"
        layers, first = a.shape[0], PROJECTIONS.index(path[-1])
        streams = first + len(PROJECTIONS) * jnp.arange(layers)
        return leaves | {
            "lora_keys": jax.vmap(lambda n: _folded(row_keys, n))(streams),
            "lora_slots": jnp.broadcast_to(jnp.asarray(slots), (layers, len(slots))),
            "lora_threshold": jnp.full(layers, threshold, jnp.uint32),
        }

    return _map_adapted(params, adapters, with_adapters)


def dropout_keys(seed: int, step: jax.Array, rows: tuple[int, int]) -> jax.Array:
    """Key of each row of an optimizer step, [A, B, 2] uint32.

    It depends on the row's number in the step alone, so that masks are independent of
    the mesh, of the processes and of the number of micro-batches A.

    Args:
        seed: seed of the run.
        step: [] i32, optimizer steps taken.
        rows: (A, B), micro-batches and their rows.
    """
    key = jax.random.fold_in(jax.random.key(seed, impl=KEY_IMPL), step)
    numbers = jnp.arange(rows[0] * rows[1]).reshape(rows)
    fold = jax.vmap(jax.vmap(lambda n: jax.random.fold_in(key, n)))
    return jax.random.key_data(fold(numbers))


def merged(params: dict, adapters: dict, lora: Lora, dtype: Any = None) -> dict:
    """The base's tree with a `Merged` in place of every adapted kernel, for an export.

    Args:
        params: the base; leaves may be any `LayerLeaf`.
        adapters: the tree of `init_adapters`, likewise.
        lora: their rank and scale.
        dtype: dtype of the sums; None for that of each kernel.
    """

    def merge(_: Path, module: dict, pair: dict) -> dict:
        kernel = module["kernel"]
        sum_dtype = jnp.dtype(kernel.dtype if dtype is None else dtype)
        a, b = pair["lora_a"], pair["lora_b"]
        return {"kernel": Merged(kernel, a, b, lora.scale, sum_dtype)}

    return _map_adapted(params, adapters, merge)


@dataclass(frozen=True)
class Merged:
    """Kernels W + scale · A·B [layers, in, out], computed one layer at a time.

    Each layer is summed on the host in float64 and rounded once: the same bits from a
    run on any mesh and from its checkpoint, and no second model on the devices.
    """

    kernel: LayerLeaf
    lora_a: LayerLeaf
    lora_b: LayerLeaf
    scale: float
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of W."""
        return self.kernel.shape

    def __getitem__(self, layer: int) -> np.ndarray:
        """Kernel [in, out] of one layer; all processes must call it together."""
        leaves = (self.kernel, self.lora_a, self.lora_b)
        kernel, a, b = (to_host(leaf[layer]).astype(np.float64) for leaf in leaves)
        return (kernel + self.scale * (a @ b)).astype(self.dtype)


def _shapes(config: DecoderConfig, lora: Lora) -> dict[Path, dict]:
    """Shapes of each target's adapters, by its path in the parameters."""
    abstract = decoder.abstract_params(config)
    modules = {path: module["kernel"].shape for path, module in _modules(abstract)}
    names = dict.fromkeys(path[-1] for path in modules)
    missing = [name for name in lora.targets if name not in names]
    if missing:
        raise ValueError(
            f"lora.targets has {', '.join(missing)}; expected projections of the "
            f"model: {', '.join(names)}"
            + (" (experts have no adapters)" if config.num_experts else "")
        )
    adapter_shapes = {}
    for path, (*lead, source, target) in modules.items():
        if path[-1] not in lora.targets:
            continue
        largest = min(source, target)
        if lora.rank > largest:
            raise ValueError(
                f"lora.rank is {lora.rank}, and {'.'.join(path)} is {source} x "
                f"{target}; expected at most {largest}"
            )
        adapter_shapes[path] = {
            "lora_a": (*lead, source, lora.rank),
            "lora_b": (*lead, lora.rank, target),
        }
    return adapter_shapes


def _modules(tree: dict, path: Path = ()) -> Iterator[tuple[Path, dict]]:
    """Every projection of a parameter tree, with its path."""
    if "kernel" in tree:
        yield path, tree
        return
    for name, part in tree.items():
        if isinstance(part, dict):
            yield from _modules(part, (*path, name))


def _folded(keys: jax.Array, stream: jax.Array) -> jax.Array:
    """Keys [B, 2] of one stream of random numbers."""

    def one(data: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(data, impl=KEY_IMPL)
        return jax.random.key_data(jax.random.fold_in(key, stream))

    return jax.vmap(one)(keys)


def _map_adapted(
    params: dict,
    adapters: dict,
    update: Callable[[Path, dict, dict], dict],
    path: Path = (),
) -> dict:
    """Parameters with `update(path, module, adapters)` merged into adapted modules."""
    if "lora_a" in adapters:
        return params | update(path, params, adapters)
    return params | {
        name: _map_adapted(params[name], part, update, (*path, name))
        for name, part in adapters.items()
    }


def _tree(leaves: Iterable[tuple[Path, dict]]) -> dict:
    tree: dict = {}
    for path, leaf in leaves:
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return tree
