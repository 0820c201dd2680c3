"""Mixture of experts: a router sends each token to the MLPs of its k best experts.

    p = softmax(x R),  y = Σ_{e in top k of p} w_e · down_e(silu(gate_e x) * up_e x)

with w = p, or p divided by its sum over the top k. Dropless: rows are sorted by expert
and multiplied group by group (`grouped_dot`), so that no expert has a capacity.
See "Mixtral of Experts" (https://arxiv.org/abs/2401.04088).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.grouped_dot import grouped_dot
from targetsft_jax.models.int8 import MATRICES, SCALE, dequantised
from targetsft_jax.models.layers import ACTIVATIONS

AXES: Mapping[str, tuple[str | None, ...]] = {
    "router": ("embed", None),
    "gate": (None, "embed", "mlp"),
    "up": (None, "embed", "mlp"),
    "down": (None, "mlp", "embed"),
}
"""Logical axes of the parameters of one layer: [D, E], [E, D, F] and [E, F, D]."""


class Routing(NamedTuple):
    """Sums over the real tokens, per layer and expert; padding is excluded.

    Attributes:
        load: [..., E] f32, number of tokens sent to each expert.
        probability: [..., E] f32, sum of the router's probabilities.
        tokens: [...] f32, number of tokens.
    """

    load: Array
    probability: Array
    tokens: Array


def auxiliary_loss(routing: Routing) -> Array:
    """Load-balancing loss over all layers, [] f32; k for a balanced router.

        E Σ_e f_e P_e,  f_e = load_e / tokens,  P_e = probability_e / tokens

    As in transformers, f and P are means over the tokens of all layers, and f counts
    each of the k choices. Gradients go through P alone. See "Switch Transformers"
    (https://arxiv.org/abs/2101.03961), eq. 4.

    Args:
        routing: stacked over the layers.
    """
    tokens = jnp.maximum(jnp.sum(routing.tokens), 1)
    load = jnp.sum(routing.load, axis=0) / tokens
    probability = jnp.sum(routing.probability, axis=0) / tokens
    return load.shape[-1] * jnp.sum(load * probability)


def busiest_share(routing: Routing) -> Array:
    """Load of the busiest expert over the mean load, averaged over layers: [] f32."""
    mean = jnp.maximum(jnp.mean(routing.load, axis=-1), 1e-6)  # no token: no load
    return jnp.mean(jnp.max(routing.load, axis=-1) / mean)


Mix = Callable[
    [DecoderConfig, Mapping[str, Array], Array, Array], tuple[Array, Routing]
]
"""Layer of experts: (config, parameters, x [B, L, D], is real [B, L])."""


def mixed(
    config: DecoderConfig, params: Mapping[str, Array], x: Array, is_real: Array
) -> tuple[Array, Routing]:
    """Output and routing of one layer of experts, on one device.

    Args:
        config: the decoder.
        params: as in `AXES`, in any float dtype, or with int8 matrices and their scales
            (see `int8`). A slice of the MLPs' width F gives the slice's part of the
            output.
        x: [B, L, D].
        is_real: [B, L] bool, False for padding.

    Returns:
        [B, L, D] in the dtype of x, and sums over the real tokens.
    """
    rows = x.reshape(-1, x.shape[-1])
    weights, chosen, routing = _route(
        config, params["router"], rows, is_real.reshape(-1)
    )
    gate, up, down = (_matrices(params, name, x.dtype) for name in MATRICES)
    k = config.experts_per_token
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    places = jnp.argsort(order)
    sizes = jnp.bincount(chosen.reshape(-1), length=config.num_experts)
    sizes = sizes.astype(jnp.int32)
    sent = _send(rows, order, places)
    hidden = ACTIVATIONS[config.activation](grouped_dot(sent, gate, sizes))
    hidden = hidden * grouped_dot(sent, up, sizes)
    returned = _permute(grouped_dot(hidden, down, sizes), places, order)
    returned = returned.reshape(len(rows), k, -1)
    y = jnp.einsum("nkd,nk->nd", returned, weights.astype(x.dtype))
    return y.reshape(x.shape), routing


class Experts(nn.Module):
    """Experts of one layer: [B, L, D] -> [B, L, D], and their routing."""

    config: DecoderConfig
    kernel_init: Initializer
    output_init: Initializer
    param_dtype: jnp.dtype
    mix: Mix | None = None

    @nn.compact
    def __call__(self, x: Array, is_real: Array) -> tuple[Array, Routing]:
        config = self.config
        width, count = config.hidden_size, config.num_experts
        size = config.expert_size or 0
        shapes = {
            "router": (width, count),
            "gate": (count, width, size),
            "up": (count, width, size),
            "down": (count, size, width),
        }
        params = {
            name: self.param(
                name,
                self.output_init if name == "down" else self.kernel_init,
                shape,
                self.param_dtype,
            )
            for name, shape in shapes.items()
        }
        for name in MATRICES:
            if self.has_variable("params", name + SCALE):
                params[name + SCALE] = self.get_variable("params", name + SCALE)
        return (self.mix or mixed)(config, params, x, is_real)


def _matrices(params: Mapping[str, Array], name: str, dtype: DTypeLike) -> Array:
    """Matrices of all experts in the compute dtype."""
    if name + SCALE in params:
        return dequantised(params[name], params[name + SCALE], dtype)
    return params[name].astype(dtype)


def _route(
    config: DecoderConfig, router: Array, rows: Array, is_real: Array
) -> tuple[Array, Array, Routing]:
    """Weights [N, k] f32 and numbers [N, k] of each row's experts, and the sums."""
    logits = jnp.matmul(
        rows, router.astype(rows.dtype), preferred_element_type=jnp.float32
    )
    probability = jax.nn.softmax(logits, axis=-1)
    weights, chosen = jax.lax.top_k(probability, config.experts_per_token)
    if config.norm_topk_prob:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    real = is_real.astype(jnp.float32)[:, None]
    one_hot = jax.nn.one_hot(chosen, config.num_experts, dtype=jnp.float32)
    load = jnp.sum(one_hot.sum(axis=1) * real, axis=0)
    routing = Routing(load, jnp.sum(probability * real, axis=0), jnp.sum(real))
    return weights, chosen, routing


@jax.custom_vjp
def _permute(rows: Array, order: Array, inverse: Array) -> Array:
    """``rows[order]``; the gradient is a gather too, where autodiff would scatter."""
    del inverse
    return rows[order]


_permute.defvjp(
    lambda rows, order, inverse: (rows[order], inverse),
    lambda inverse, gradient: (gradient[inverse], None, None),
)


@jax.custom_vjp
def _send(rows: Array, order: Array, places: Array) -> Array:
    """Copies of the rows [N, D], sorted by expert: [N k, D]; k = len(order) / N."""
    del places
    return rows[order // (len(order) // len(rows))]


def _send_backward(saved: tuple[Array, int], gradient: Array) -> tuple:
    places, k = saved
    copies = gradient[places].reshape(-1, k, gradient.shape[-1])
    return jnp.sum(copies, axis=1), None, None


_send.defvjp(
    lambda rows, order, places: (
        _send(rows, order, places),
        (places, len(order) // len(rows)),
    ),
    _send_backward,
)
