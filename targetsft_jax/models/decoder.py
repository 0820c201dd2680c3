"""The decoder as pure functions: parameters and tokens in, hidden states out.

No logits are made here. The loss, and generation, take `hidden` and `head` and decide
how much of [tokens, V] may exist at a time.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from targetsft_jax.models.attention import Attention, Cache, Span, norm_init
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layers import GatedMLP, rms_norm
from targetsft_jax.models.rope import Rotation, rotation

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What a layer keeps for its backward pass: everything, nothing, or the outputs of
its weight multiplications (attention scores are recomputed)."""

INIT_SCALE = 0.02


def init_params(
    config: DecoderConfig, key: jax.Array, dtype: DTypeLike = jnp.float32
) -> dict:
    """Fresh parameters: normal(0.02), biases zero, norms that multiply by one.

    The projections that write to the residual stream (o, down) start smaller by
    sqrt(2 * layers), so that its variance does not grow with depth (GPT-2).

    Args:
        config: the decoder.
        key: a PRNG key.
        dtype: dtype of every parameter.

    Returns:
        A nested dict; under "layers" every leaf has a leading [num_layers] axis.
        Traceable: use with `jax.jit` and `out_shardings`.
    """
    module = _Decoder(config, param_dtype=jnp.dtype(dtype))
    one = jnp.ones((1, 1), jnp.int32)
    # Under jit the forward pass that init runs is dead code.
    return jax.jit(module.init)(key, one, one - 1, one)["params"]


def abstract_params(config: DecoderConfig, dtype: DTypeLike = jnp.float32) -> dict:
    """Shapes and dtypes of the parameters: `init_params`, with nothing allocated.

    Returns:
        The tree of `init_params` with a `jax.ShapeDtypeStruct` at each leaf.
    """
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), dtype))


def apply(
    config: DecoderConfig,
    params: dict,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    dtype=jnp.float32,
    remat: str = "none",
    constrain: Callable[[jax.Array], jax.Array] | None = None,
    embedded: jax.Array | None = None,
    attend: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Hidden states after the final norm.

    Args:
        config: the decoder.
        params: the tree of `init_params`, in any float dtype.
        tokens: [B, L] int32.
        positions: [B, L] int32 for the rotary embedding; 0..L-1 when None. Only
            differences within a segment matter.
        segment_ids: [B, L] int32, 0 for padding; attention is causal and never
            crosses a segment. One segment a row when None. Padding comes out finite
            and without meaning.
        dtype: compute dtype. Norms, rotary embedding and softmax stay in float32.
        remat: a name in `REMAT_POLICIES`.
        constrain: applied to the [B, L, D] residual stream before and after every
            layer; the caller's place for a sharding constraint.
        embedded: [B, L, D], the tokens' rows of the embedding, where the caller has
            looked them up; `tokens` then gives the shape only.
        attend: (query, key, value, segment_ids, *, window, scale, softcap) -> mixed,
            in place of the portable attention (see `kernels`).

    Returns:
        [B, L, D] in `dtype`; logits are `hidden @ head(params).T`, under the config's
        `final_logit_softcap`.

    Raises:
        ValueError: unknown remat policy.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat is {remat!r}; choose from {sorted(REMAT_POLICIES)}.")
    if positions is None:
        row = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        positions = jnp.broadcast_to(row, tokens.shape)
    if segment_ids is None:
        segment_ids = jnp.ones(tokens.shape, jnp.int32)
    module = _Decoder(
        config, jnp.dtype(dtype), remat=remat, constrain=constrain, attend=attend
    )
    return module.apply({"params": params}, tokens, positions, segment_ids, embedded)


def head(params: dict) -> jax.Array:
    """The output matrix [V, D], in the parameters' dtype; the embedding when tied."""
    return params["head"] if "head" in params else params["embed"]


def logical_axes(config: DecoderConfig) -> dict:
    """The tree of `init_params` with a tuple of logical axis names at each leaf.

    Names: "layers", "vocab", "table" (the width of embedding and head), "embed" (that
    of all else), "heads", "kv_heads", "mlp"; None where an axis is too small to split.
    """

    def project(source, target, bias=False):
        axes = {"kernel": ("layers", source, target)}
        return {**axes, "bias": ("layers", target)} if bias else axes

    bias = config.qkv_bias
    norm = ("layers", None)
    heads = {"q_norm": norm, "k_norm": norm} if config.qk_norm else {}
    outputs = ("attention_out_norm", "mlp_out_norm") if config.sandwich_norms else ()
    axes = {
        "embed": ("vocab", "table"),
        "layers": {
            "input_norm": norm,
            "attention": {
                "q": project("embed", "heads", bias),
                "k": project("embed", "kv_heads", bias),
                "v": project("embed", "kv_heads", bias),
                "o": project("heads", "embed", config.o_bias),
                **heads,
            },
            "post_norm": norm,
            "mlp": {
                "gate": project("embed", "mlp"),
                "up": project("embed", "mlp"),
                "down": project("mlp", "embed"),
            },
            **dict.fromkeys(outputs, norm),
        },
        "final_norm": (None,),
    }
    return axes if config.tie_word_embeddings else {**axes, "head": axes["embed"]}


def init_cache(
    config: DecoderConfig, batch: int, length: int, dtype=jnp.float32
) -> Cache:
    """An empty cache with room for `length` tokens (padding included) a row."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)

    def empty():
        return jnp.zeros(shape, dtype)

    return Cache(
        layers=tuple((empty(), empty()) for _ in range(config.num_layers)),
        segment_ids=jnp.zeros((batch, length), jnp.int32),
        used=jnp.zeros((), jnp.int32),
    )


def apply_cached(
    config: DecoderConfig,
    params: dict,
    tokens: jax.Array,
    cache: Cache,
    *,
    segment_ids: jax.Array | None = None,
    dtype=jnp.float32,
) -> tuple[jax.Array, Cache]:
    """`apply` to the next tokens of every row, after those the cache holds.

    A prompt is fed whole, padded on either side, with `segment_ids` 1 for its tokens
    and 0 for padding; then one token a call. A token's position is the number of real
    tokens before it in its row, whatever the padding.

    Args:
        config: the decoder.
        params: the tree of `init_params`.
        tokens: [B, T] int32, the next T tokens of each row.
        cache: from `init_cache` or an earlier call. `cache.used + T` must not exceed
            its length; under jit that cannot be checked, and the last slots would be
            overwritten.
        segment_ids: [B, T] int32, 1 for real tokens and 0 for padding; all real when
            None.
        dtype: compute dtype.

    Returns:
        hidden [B, T, D] in `dtype`, and the cache with T more slots used.

    Raises:
        ValueError: T is larger than the cache.
    """
    length = cache.segment_ids.shape[1]
    if tokens.shape[1] > length:
        raise ValueError(
            f"{tokens.shape[1]} tokens a row do not fit a cache of {length} slots; "
            "make the cache longer with init_cache."
        )
    if segment_ids is None:
        segment_ids = jnp.ones(tokens.shape, jnp.int32)
    before = jnp.sum(cache.segment_ids > 0, axis=1, dtype=jnp.int32)
    real = (segment_ids > 0).astype(jnp.int32)
    positions = before[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32) - real
    at = (jnp.zeros((), jnp.int32), cache.used)
    cache = cache._replace(
        segment_ids=jax.lax.dynamic_update_slice(cache.segment_ids, segment_ids, at)
    )
    # A token's place is its position, which padding between prompt and answer leaves.
    places = jnp.cumsum(cache.segment_ids > 0, axis=1, dtype=jnp.int32) - 1
    span = Span(
        segment_ids,
        cache.segment_ids,
        cache.used,
        *_rotations(config, positions),
        places=(positions, places),
    )
    x = _scaled(config, jnp.take(params["embed"], tokens, axis=0).astype(dtype))
    module = _Layer(config)
    layers = []
    # Not scanned: a stacked cache would be copied, layer by layer, for every token.
    for number, (kept, window) in enumerate(zip(cache.layers, config.windows)):
        layer = jax.tree.map(lambda leaf: leaf[number], params["layers"])  # noqa: B023
        x, kept = module.apply({"params": layer}, x, span, window is not None, kept)
        layers.append(kept)
    hidden = _final_norm(config, x, params["final_norm"])
    used = cache.used + tokens.shape[1]
    return hidden, cache._replace(layers=tuple(layers), used=used)


def _rotations(
    config: DecoderConfig, positions: jax.Array
) -> tuple[Rotation, Rotation | None]:
    """Of the layers that see everything, and of those with a window if it differs."""
    size, theta = config.rotary_dim, config.local_rope_theta
    return (
        rotation(positions, size, config.rope_theta, config.rope_scaling),
        None if theta is None else rotation(positions, size, theta),
    )


def _scaled(config: DecoderConfig, x: jax.Array) -> jax.Array:
    """Embeddings as the first layer wants them; the factor is rounded as they are."""
    if not config.scale_embedding:
        return x
    return x * jnp.asarray(config.hidden_size**0.5, x.dtype)


def _final_norm(config: DecoderConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    return rms_norm(x, scale, config.rms_norm_eps, config.unit_offset)


class _Layer(nn.Module):
    config: DecoderConfig
    param_dtype: jnp.dtype = jnp.dtype(jnp.float32)
    constrain: Callable[[jax.Array], jax.Array] | None = None
    attend: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, x, span, local=None, kept=None):
        config, dtype = self.config, self.param_dtype
        init = nn.initializers.normal(INIT_SCALE)
        depth_scaled = nn.initializers.normal(
            INIT_SCALE / (2 * config.num_layers) ** 0.5
        )
        attention = Attention(
            config, init, depth_scaled, dtype, self.attend, name="attention"
        )
        mixed, kept = attention(self._norm("input_norm", x), span, local, kept)
        x = x + self._output("attention_out_norm", mixed)
        mlp = GatedMLP(config, init, depth_scaled, dtype, name="mlp")
        x = x + self._output("mlp_out_norm", mlp(self._norm("post_norm", x)))
        return (x if self.constrain is None else self.constrain(x)), kept

    def _norm(self, name, x):
        config = self.config
        init = norm_init(config)
        scale = self.param(name, init, (x.shape[-1],), self.param_dtype)
        return rms_norm(x, scale, config.rms_norm_eps, config.unit_offset)

    def _output(self, name, x):
        return self._norm(name, x) if self.config.sandwich_norms else x


class _Decoder(nn.Module):
    config: DecoderConfig
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    param_dtype: jnp.dtype = jnp.dtype(jnp.float32)
    remat: str = "none"
    constrain: Callable[[jax.Array], jax.Array] | None = None
    attend: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, tokens, positions, segment_ids, embedded=None):
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
        of_all, of_local = _rotations(config, positions)
        span = Span(
            segment_ids=segment_ids,
            key_segment_ids=segment_ids,
            start=jnp.zeros((), jnp.int32),
            rotation=of_all,
            local_rotation=of_local,
        )
        layer = _Layer
        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat]
            # The scan already keeps the two passes apart, so CSE need not be blocked.
            layer = nn.remat(_Layer, policy=policy, prevent_cse=False)
        # Layers that differ in their window only are still one, with a flag that is
        # scanned: whatever the period, and whatever it leaves over.
        local = config.sliding_layers
        local = None if local is None else jnp.asarray(local)
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=config.num_layers,
        )(config, self.param_dtype, self.constrain, self.attend, name="layers")
        x, _ = layers(x, span, local)
        shape, init = (config.hidden_size,), norm_init(config)
        scale = self.param("final_norm", init, shape, self.param_dtype)
        return _final_norm(config, x, scale)
