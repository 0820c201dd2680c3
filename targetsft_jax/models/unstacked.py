"""Parameters for decoding on a CPU: one tree per layer, products of one input joined.

In a loop over tokens, XLA on a CPU copies each layer out of the stacked parameters for
every token, which takes as long as its products. A second copy of the parameters, made
once, avoids it; q, k and v become one product there, and gate and up another. On
accelerators, products read the stacked parameters in place.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

QKV, GATE_UP = "qkv", "gate_up"
"""Names of the joined projections."""

_JOINED = (("attention", QKV, ("q", "k", "v")), ("mlp", GATE_UP, ("gate", "up")))


class Weights(NamedTuple):
    """Parameters of a decoder that generates.

    Attributes:
        params: the tree of `decoder.init_params`, perhaps with adapters.
        layers: the tree of each layer; None: those of `params`.
    """

    params: dict[str, Any]
    layers: tuple[dict[str, Any], ...] | None

    def layer(self, number: int) -> dict[str, Any]:
        """The tree of one layer."""
        if self.layers is not None:
            return self.layers[number]
        layer: dict[str, Any] = jax.tree.map(
            lambda leaf: leaf[number], self.params["layers"]
        )
        return layer


def decoding_weights(params: "dict[str, Any] | Weights", dtype: DTypeLike) -> Weights:
    """Weights for generation; what is prepared already is returned.

    Args:
        params: the tree of `decoder.init_params`.
        dtype: compute dtype, in which unstacked kernels are stored.
    """
    if isinstance(params, Weights):
        return params
    arrays: dict[str, Any] = jax.tree.map(jnp.asarray, params)
    leaves = jax.tree.leaves(arrays["layers"])
    if next(iter(leaves[0].devices())).platform != "cpu":
        return Weights(arrays, None)
    # Sharded kernels are not joined, since their shards would move.
    join = all(leaf.sharding.is_fully_replicated for leaf in leaves)
    return Weights(arrays, _unstacked(arrays["layers"], join, jnp.dtype(dtype)))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unstacked(
    layers: dict, join: bool, dtype: jnp.dtype
) -> tuple[dict[str, Any], ...]:
    count = len(jax.tree.leaves(layers)[0])
    trees = [jax.tree.map(lambda leaf: leaf[n], layers) for n in range(count)]  # noqa: B023
    if join:
        for tree in trees:
            for module, name, parts in _JOINED:
                if module not in tree:  # experts have no MLP
                    continue
                tree[module] = _with_joined(tree[module], name, parts)

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        is_cast = path[-1].key == "kernel" and leaf.dtype != jnp.int8
        return leaf.astype(dtype) if is_cast else leaf

    return tuple(jax.tree_util.tree_map_with_path(cast, tree) for tree in trees)


def _with_joined(module: dict, name: str, parts: Sequence[str]) -> dict:
    """A module with the joined projection in place of its parts.

    Projections with adapters stay separate.
    """
    projections = [module[part] for part in parts]
    if any("lora_a" in projection for projection in projections):
        return module
    joined = {
        leaf: jnp.concatenate([projection[leaf] for projection in projections], axis=-1)
        for leaf in projections[0]
    }
    others = {key: value for key, value in module.items() if key not in parts}
    return {**others, name: joined}
