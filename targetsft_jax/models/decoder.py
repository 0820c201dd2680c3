"""Decoder-only transformer as pure functions: parameters and tokens to hidden states.

Logits are not computed here: the loss and generation take `hidden` and `head`, and
choose how much of [tokens, V] exists at a time.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from targetsft_jax.models import rope
from targetsft_jax.models.attention import (
    PROMPT_KV,
    Attention,
    AttentionSpan,
    SelfAttention,
    TokenSpan,
    norm_init,
)
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.experts import Experts, Mix, Routing
from targetsft_jax.models.layer_axes import layer_axes
from targetsft_jax.models.layers import GatedMLP, rms_norm
from targetsft_jax.models.products import Multiply
from targetsft_jax.models.remat import REMAT_POLICIES
from targetsft_jax.models.ring import LayerCache
from targetsft_jax.models.unstacked import Weights

INIT_SCALE = 0.02


def init_params(
    config: DecoderConfig, key: jax.Array, dtype: DTypeLike = jnp.float32
) -> dict:
    """Random parameters: normal(0, 0.02), zero biases, norm scales of one.

    The standard deviation of the projections into the residual stream (o, down) is
    divided by sqrt(2 * layers), so that its variance does not grow with depth (GPT-2).

    Args:
        config: the decoder.
        key: a PRNG key.
        dtype: dtype of every parameter.

    Returns:
        A nested dict; under "layers" every leaf has a leading [num_layers] axis.
        Traceable, so that `jax.jit` with `out_shardings` initializes it sharded.
    """
    module = _Decoder(config, param_dtype=jnp.dtype(dtype))
    one = jnp.ones((1, 1), jnp.int32)
    # Under jit the forward pass of `init` is dead code.
    return jax.jit(module.init)(key, one, one - 1, one)["params"]


def abstract_params(config: DecoderConfig, dtype: DTypeLike = jnp.float32) -> dict:
    """Shapes and dtypes of the parameters, without allocation.

    Returns:
        The tree of `init_params` with a `jax.ShapeDtypeStruct` at each leaf.
    """
    shapes: dict = jax.tree.map(lambda leaf: leaf, _shapes(config, jnp.dtype(dtype)))
    return shapes


@functools.cache
def _shapes(config: DecoderConfig, dtype: jnp.dtype) -> dict:
    """Traced once: flax takes a quarter of a second."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), dtype))


@functools.cache
def num_parameters(config: DecoderConfig) -> int:
    """Number of parameters; a tied head is counted once."""
    return sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config))
    )


def apply(
    config: DecoderConfig, params: dict, tokens: jax.Array, **options: Any
) -> jax.Array:
    """Hidden states after the final norm, [B, L, D]; options as in `apply_routed`."""
    return apply_routed(config, params, tokens, **options)[0]


def apply_routed(
    config: DecoderConfig,
    params: dict,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    constrain: Callable[[jax.Array], jax.Array] | None = None,
    embedded: jax.Array | None = None,
    attend: SelfAttention | None = None,
    mix: Mix | None = None,
    multiply: Multiply = jnp.matmul,
    read: Callable[[Any], Any] | None = None,
) -> tuple[jax.Array, Routing | None]:
    """Hidden states after the final norm, and the routing of a mixture of experts.

    Args:
        config: the decoder.
        params: the tree of `init_params`, in any float dtype.
        tokens: [B, L] int32.
        positions: [B, L] int32 below L for the rotary embedding; None for 0..L-1. Only
            differences within a segment matter, unless queries are scaled by their
            position (Ministral 3): it is then counted from the start of a text.
        segment_ids: [B, L] int32, 0 for padding; attention is causal and never
            crosses a segment. None for one segment per row. Hidden states of padding
            are finite and meaningless.
        dtype: compute dtype. Norms, rotary embedding and softmax are in float32.
        remat: a name in `REMAT_POLICIES`.
        constrain: applied to the [B, L, D] residual stream before and after every
            layer, such as a sharding constraint.
        embedded: [B, L, D], the tokens' rows of the embedding, for callers that look
            them up themselves; only the shape of `tokens` is read then.
        attend: replaces the portable attention (see `kernels`).
        mix: replaces the experts of one device (see `sharded_experts`).
        multiply: product of activations and weights (see `products`).
        read: applied to the parameters of each layer, as it reads them (see
            `parallel.gradient_rings`).

    Returns:
        [B, L, D] in `dtype`; logits are `hidden @ head(params).T`, under the config's
        `final_logit_softcap`. The routing is stacked over the layers, and None for a
        dense model.

    Raises:
        ValueError: unknown remat policy.
    """
    if remat not in REMAT_POLICIES:
        names = ", ".join(REMAT_POLICIES)
        raise ValueError(f"remat is {remat!r}; expected one of {names}")
    if positions is None:
        row = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        positions = jnp.broadcast_to(row, tokens.shape)
    if segment_ids is None:
        segment_ids = jnp.ones(tokens.shape, jnp.int32)
    module = _Decoder(
        config,
        jnp.dtype(dtype),
        remat=remat,
        constrain=constrain,
        attend=attend,
        mix=mix,
        multiply=multiply,
        read=read,
    )
    outputs: Any = module.apply(
        {"params": params}, tokens, positions, segment_ids, embedded
    )
    return outputs


def head(params: dict) -> jax.Array:
    """Output matrix [V, D] in the parameters' dtype; a tied head is the embedding."""
    return params["head"] if "head" in params else params["embed"]


def logical_axes(config: DecoderConfig) -> dict:
    """Logical axis names of every parameter, for `parallel.rules`.

    Names: "vocab", "table" (model width of embedding and head), and those of
    `layer_axes`; None for an axis too small to split.

    Returns:
        The tree of `init_params` with a tuple of names at each leaf.
    """
    axes: dict = {
        "embed": ("vocab", "table"),
        "layers": layer_axes(config),
        "final_norm": (None,),
    }
    return axes if config.tie_word_embeddings else {**axes, "head": axes["embed"]}


def apply_prompts(
    config: DecoderConfig,
    params: dict,
    tokens: jax.Array,
    *,
    segment_ids: jax.Array,
    dtype: DTypeLike = jnp.float32,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states of prompts, and the keys and values that follow-up tokens need.

    Args:
        config: the decoder.
        params: the tree of `init_params`.
        tokens: [P, L] int32, prompts padded on the left.
        segment_ids: [P, L] int32, 1 for real tokens and 0 for padding.
        dtype: compute dtype.

    Returns:
        hidden [P, L, D], and rotated keys and values [layers, P, L, kv_heads, head_dim]
        in `dtype`.
    """
    positions = jnp.cumsum(segment_ids, axis=1, dtype=jnp.int32) - segment_ids
    outputs: Any
    outputs, state = _Decoder(config, jnp.dtype(dtype)).apply(
        {"params": params}, tokens, positions, segment_ids, mutable=[PROMPT_KV]
    )
    [(keys, values)] = state[PROMPT_KV]["layers"]["attention"]["kv"]
    return outputs[0], keys, values


def apply_token(
    config: DecoderConfig,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    step: jax.Array,
    caches: tuple[LayerCache, ...],
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """Hidden states of the next token of each row, with a KV cache of earlier ones.

    Args:
        config: the decoder.
        weights: parameters, from `decoding_weights`.
        tokens: [R] int32.
        positions: [R] int32, number of tokens before it in each row.
        step: [] int32, steps of the cache before this one (see `ring`).
        caches: one for each layer, from `ring.empty_cache` or an earlier call. A row
            of n tokens needs n slots in the layers without a window; under jit that
            cannot be checked, and its first tokens would be overwritten.
        dtype: compute dtype.

    Returns:
        hidden [R, D] in `dtype`, and the caches with the tokens.
    """
    params = weights.params
    is_long, scaling = None, config.rope_scaling
    if isinstance(scaling, rope.LongRopeScaling):
        # A row is long from its prompt on, or never (see `generate`).
        is_long = positions[:, None] >= scaling.original_max_position_embeddings
    rotations = _rotations(config, positions[:, None], is_long)
    factor = rope.query_scale(scaling, positions[:, None])
    span = TokenSpan(positions, step, *rotations, query_scale=factor)
    x = jnp.take(params["embed"], tokens[:, None], axis=0)
    x = _scaled(config, x.astype(dtype))
    module = _Layer(config)
    new = []
    rotated = config.rope_layers or (None,) * config.num_layers
    # Not scanned: a stacked cache would be copied, layer by layer, for every token.
    for number, cache in enumerate(caches):
        layer = {"params": weights.layer(number)}
        is_windowed = config.windows[number] is not None
        outputs: Any = module.apply(layer, x, span, is_windowed, rotated[number], cache)
        x, cache = outputs
        new.append(cache)
    return _final_norm(config, x, params["final_norm"])[:, 0], tuple(new)


def _rotations(
    config: DecoderConfig, positions: jax.Array, is_long: jax.Array | None
) -> tuple[rope.Rotation, rope.Rotation | None]:
    """Rotation of layers without a window, and of those with one where it differs."""
    size, theta = config.rotary_dim, config.local_rope_theta
    scaling = config.rope_scaling
    return (
        rope.rotation(positions, size, config.rope_theta, scaling, is_long),
        None if theta is None else rope.rotation(positions, size, theta),
    )


def _scaled(config: DecoderConfig, x: jax.Array) -> jax.Array:
    """Embeddings x times their scale, in the dtype of x."""
    scale = config.embedding_scale
    return x if scale == 1 else x * jnp.asarray(scale, x.dtype)


def _final_norm(config: DecoderConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Hidden states, divided by the scaling of the logits and rounded once."""
    eps, offset = config.rms_norm_eps, config.unit_offset
    if config.logits_scaling == 1:
        return rms_norm(x, scale, eps, offset)
    normed = rms_norm(x.astype(jnp.float32), scale, eps, offset)
    return (normed / config.logits_scaling).astype(x.dtype)


class _Layer(nn.Module):
    config: DecoderConfig
    param_dtype: jnp.dtype = jnp.dtype(jnp.float32)
    constrain: Callable[[jax.Array], jax.Array] | None = None
    attend: SelfAttention | None = None
    mix: Mix | None = None
    multiply: Multiply = jnp.matmul

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        span: AttentionSpan | TokenSpan,
        is_windowed: jax.Array | bool | None = None,
        is_rotated: jax.Array | bool | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[jax.Array, LayerCache | Routing | None]:
        config, dtype = self.config, self.param_dtype
        init = nn.initializers.normal(INIT_SCALE)
        depth_scaled = nn.initializers.normal(
            INIT_SCALE / (2 * config.num_layers) ** 0.5
        )
        how = (self.attend, self.multiply)
        attention = Attention(config, init, depth_scaled, dtype, *how, name="attention")
        source = self._input("input_norm", x)
        mixed, cache = attention(source, span, is_windowed, is_rotated, cache)
        x = x + self._output("attention_out_norm", mixed)
        source, routing = self._input("post_norm", x), None
        if config.num_experts:
            experts = Experts(
                config, init, depth_scaled, dtype, self.mix, name="experts"
            )
            # While one token per row is decoded, none is padding.
            ids = jnp.ones(x.shape[:2], jnp.int32)
            ids = span.segment_ids if isinstance(span, AttentionSpan) else ids
            mixed, routing = experts(source, ids > 0)
        else:
            mlp = GatedMLP(config, init, depth_scaled, dtype, self.multiply, name="mlp")
            mixed = mlp(source)
        x = x + self._output("mlp_out_norm", mixed)
        x = x if self.constrain is None else self.constrain(x)
        return x, routing if cache is None else cache

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        config = self.config
        init = norm_init(config)
        scale = self.param(name, init, (x.shape[-1],), self.param_dtype)
        return rms_norm(x, scale, config.rms_norm_eps, config.unit_offset)

    def _input(self, name: str, x: jax.Array) -> jax.Array:
        return self._norm(name, x) if self.config.input_norms else x

    def _output(self, name: str, x: jax.Array) -> jax.Array:
        x = self._norm(name, x) if self.config.output_norms else x
        factor = self.config.residual_multiplier
        return x if factor == 1 else x * jnp.asarray(factor, x.dtype)


class _Decoder(nn.Module):
    config: DecoderConfig
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    param_dtype: jnp.dtype = jnp.dtype(jnp.float32)
    remat: str = "none"
    constrain: Callable[[jax.Array], jax.Array] | None = None
    attend: SelfAttention | None = None
    mix: Mix | None = None
    multiply: Multiply = jnp.matmul
    read: Callable[[Any], Any] | None = None

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        embedded: jax.Array | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        config = self.config
        init = nn.initializers.normal(INIT_SCALE)
        table = (config.vocab_size, config.hidden_size)
        embed = self.param("embed", init, table, self.param_dtype)
        if not config.tie_word_embeddings:
            # Declared here for init; only `head` reads it.
            self.param("head", init, table, self.param_dtype)
        x = jnp.take(embed, tokens, axis=0) if embedded is None else embedded
        x = _scaled(config, x.astype(self.dtype))
        if self.constrain is not None:
            x = self.constrain(x)
        is_long = rope.long_texts(config.rope_scaling, segment_ids)
        rotation, local_rotation = _rotations(config, positions, is_long)
        span = AttentionSpan(
            segment_ids=segment_ids,
            key_segment_ids=segment_ids,
            start=jnp.zeros((), jnp.int32),
            rotation=rotation,
            local_rotation=local_rotation,
            query_scale=rope.query_scale(
                config.rope_scaling, positions, longest=positions.shape[1]
            ),
        )
        layer: Any = _Layer
        if self.read is not None:
            layer = nn.map_variables(layer, "params", trans_in_fn=self.read)
        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat].policy
            # The scan separates forward and backward pass, so CSE is harmless.
            layer = nn.remat(layer, policy=policy, prevent_cse=False)
        # Layers that differ only in their window or rotation are scanned together with
        # flags, which allows any period and any number of layers.
        is_windowed, is_rotated = (
            None if flags is None else jnp.asarray(flags)
            for flags in (config.sliding_layers, config.rope_layers)
        )
        how = (self.constrain, self.attend, self.mix, self.multiply)
        layers = nn.scan(
            layer,
            variable_axes={"params": 0, PROMPT_KV: 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0, 0),
            length=config.num_layers,
        )(config, self.param_dtype, *how, name="layers")
        x, routing = layers(x, span, is_windowed, is_rotated)
        shape, init = (config.hidden_size,), norm_init(config)
        scale = self.param("final_norm", init, shape, self.param_dtype)
        return _final_norm(config, x, scale), routing
