"""The decoder: packing, padding, cache, precision, remat, and the shape of its tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig, RopeScaling, num_parameters

QWEN = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
)
LLAMA = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=6,
    rope_theta=10_000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16),
    tie_word_embeddings=False,
    qkv_bias=False,
    model_type="llama",
)
BOTH = pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen", "llama"])


@functools.cache
def params_of(config):
    """Every leaf random and large enough that a part left out shows."""
    params = decoder.init_params(config, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + 0.2 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys)
    ]
    return jax.tree.unflatten(tree, noisy)


def tokens_of(rows, length, seed=2):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, 40, jnp.int32)


@BOTH
def test_tree_agrees_with_its_axes_and_count(config):
    params = jax.eval_shape(lambda k: decoder.init_params(config, k), jax.random.key(0))
    axes = decoder.logical_axes(config)
    is_axes = functools.partial(lambda x: isinstance(x, tuple))
    sizes = {
        "layers": config.num_layers,
        "vocab": config.vocab_size,
        "embed": config.hidden_size,
        "heads": config.num_heads * config.head_dim,
        "kv_heads": config.num_kv_heads * config.head_dim,
        "mlp": config.intermediate_size,
        None: config.hidden_size,
    }
    want = jax.tree.map(
        lambda names: tuple(map(sizes.get, names)), axes, is_leaf=is_axes
    )
    assert jax.tree.map(lambda leaf: leaf.shape, params) == want
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_parameters(config)


def test_known_parameter_counts():
    """The published sizes of Qwen2.5-1.5B and Llama-3.1-8B."""
    qwen = DecoderConfig(151936, 1536, 8960, 28, 12, 2)
    llama = DecoderConfig(
        128256, 4096, 14336, 32, 32, 8, tie_word_embeddings=False, qkv_bias=False
    )
    assert num_parameters(qwen) == 1_543_714_304
    assert num_parameters(llama) == 8_030_261_248


def test_initialisation_scales():
    config = DecoderConfig(512, 128, 256, 8, 4, 2, tie_word_embeddings=False)
    params = decoder.init_params(config, jax.random.key(0), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}

    def spread(leaf):
        return float(np.std(np.asarray(leaf, np.float32)))

    layers = params["layers"]
    for leaf in (params["embed"], params["head"], layers["mlp"]["up"]["kernel"]):
        assert spread(leaf) == pytest.approx(0.02, rel=0.03)
    for leaf in (layers["attention"]["o"]["kernel"], layers["mlp"]["down"]["kernel"]):
        assert spread(leaf) == pytest.approx(0.02 / 4, rel=0.03)
    first, second = np.asarray(layers["mlp"]["up"]["kernel"], np.float32)[:2]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    assert np.all(np.asarray(layers["input_norm"], np.float32) == 1)


@BOTH
def test_packed_segments_equal_separate_rows(config):
    params, tokens = params_of(config), tokens_of(1, 12)
    parts = [tokens[:, :5], tokens[:, 5:9], tokens[:, 9:]]
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [3] * 3], jnp.int32)
    restarted = jnp.asarray([[*range(5), *range(4), *range(3)]], jnp.int32)
    probe = jax.random.normal(jax.random.key(3), (1, 12, config.hidden_size))

    def packed(params, positions):
        hidden = decoder.apply(
            config, params, tokens, segment_ids=segments, positions=positions
        )
        return jnp.sum(hidden * probe), hidden

    def separate(params):
        hidden = jnp.concatenate(
            [decoder.apply(config, params, part) for part in parts], axis=1
        )
        return jnp.sum(hidden * probe), hidden

    (_, want), want_grad = jax.value_and_grad(separate, has_aux=True)(params)
    for positions in (restarted, None):  # rotary angles are relative
        (_, got), grad = jax.value_and_grad(packed, has_aux=True)(params, positions)
        np.testing.assert_allclose(got, want, atol=2e-5)
        for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad)):
            np.testing.assert_allclose(a, b, atol=2e-4)
    crossed = decoder.apply(config, params, tokens)
    assert np.abs(crossed - want)[:, 5:].max() > 1e-2


@BOTH
def test_causal(config):
    params, tokens = params_of(config), tokens_of(1, 8)
    changed = tokens.at[0, 5].set((tokens[0, 5] + 1) % 40)
    difference = decoder.apply(config, params, tokens) - decoder.apply(
        config, params, changed
    )
    assert np.abs(difference)[0, :5].max() < 1e-6
    assert np.abs(difference)[0, 5:].max(axis=-1).min() > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_padding_is_finite_and_touches_nothing(dtype):
    params, tokens = params_of(QWEN), tokens_of(3, 8)
    segments = jnp.asarray([[1] * 5 + [0] * 3, [0] * 8, [0] * 3 + [1] * 5], jnp.int32)

    def loss(params, tokens):
        hidden = decoder.apply(QWEN, params, tokens, segment_ids=segments, dtype=dtype)
        real = jnp.where(segments[..., None] > 0, hidden.astype(jnp.float32), 0)
        return jnp.sum(jnp.sin(real)), hidden

    (value, hidden), grad = jax.value_and_grad(loss, has_aux=True)(params, tokens)
    assert np.isfinite(np.asarray(hidden, np.float32)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    other = jnp.where(segments > 0, tokens, (tokens + 7) % 40)
    assert loss(params, other)[0] == value


def test_bfloat16_is_near_float32():
    params, tokens = params_of(QWEN), tokens_of(2, 12)
    exact = decoder.apply(QWEN, params, tokens)
    rounded = decoder.apply(QWEN, params, tokens, dtype=jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(rounded.astype(jnp.float32) - exact)
    assert 0 < error.mean() < 0.01 * np.abs(exact).mean() + 0.01


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_no_gradient(remat):
    params, tokens = params_of(QWEN), tokens_of(2, 6)

    def gradient(remat):
        def loss(params):
            return jnp.sum(jnp.sin(decoder.apply(QWEN, params, tokens, remat=remat)))

        return jax.jit(jax.grad(loss))(params), str(
            jax.make_jaxpr(jax.grad(loss))(params)
        )

    plain, plain_program = gradient("none")
    again, program = gradient(remat)
    assert "remat" in program or "checkpoint" in program
    assert program != plain_program
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_unknown_remat_is_refused():
    with pytest.raises(ValueError, match="'some'.*dots.*full.*none"):
        decoder.apply(QWEN, params_of(QWEN), tokens_of(1, 2), remat="some")


def test_head_is_the_embedding_only_when_tied():
    assert decoder.head(params_of(QWEN)) is params_of(QWEN)["embed"]
    assert decoder.head(params_of(LLAMA)) is params_of(LLAMA)["head"]


def test_sharded_equals_single_device():
    mesh = jax.make_mesh(
        (4, 2), ("rows", "cols"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    where = {"embed": "rows", "heads": "cols", "kv_heads": "cols", "mlp": "cols"}
    where |= {"vocab": "cols"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        decoder.logical_axes(QWEN),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    params, tokens = params_of(QWEN), tokens_of(4, 6)
    split = jax.device_put(params, shardings)
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    seen = []

    def constrain(x):
        seen.append(x.shape)
        return jax.lax.with_sharding_constraint(x, rows)

    run = functools.partial(decoder.apply, QWEN, constrain=constrain)
    hidden = jax.jit(run)(split, jax.device_put(tokens, rows))
    assert seen and set(seen) == {(4, 6, 16)}
    np.testing.assert_allclose(hidden, decoder.apply(QWEN, params, tokens), atol=1e-5)


@BOTH
@pytest.mark.parametrize("side", ["left", "right"])
def test_cache_equals_the_full_forward(config, side):
    """Prompts of 3 and 6 tokens, padded to 6, then four tokens one by one."""
    params, tokens = params_of(config), tokens_of(2, 10)
    lengths, width, new = [3, 6], 6, 4
    prompt, real = np.zeros((2, width), np.int32), np.zeros((2, width), np.int32)
    for row, length in enumerate(lengths):
        at = slice(width - length, width) if side == "left" else slice(0, length)
        prompt[row, at] = tokens[row, :length]
        real[row, at] = 1
    cache = decoder.init_cache(config, 2, width + new)
    hidden, cache = decoder.apply_cached(
        config, params, jnp.asarray(prompt), cache, segment_ids=jnp.asarray(real)
    )
    step = jax.jit(functools.partial(decoder.apply_cached, config))
    later = []
    for index in range(new):
        fed = jnp.stack([tokens[row, n + index] for row, n in enumerate(lengths)])
        one, cache = step(params, fed[:, None], cache)
        later.append(one[:, 0])
    for row, length in enumerate(lengths):
        want = decoder.apply(config, params, tokens[row : row + 1, : length + new])[0]
        np.testing.assert_allclose(
            hidden[row][real[row] == 1], want[:length], atol=2e-5
        )
        got = jnp.stack([one[row] for one in later])
        np.testing.assert_allclose(got, want[length:], atol=2e-5)


def test_cache_in_pieces_and_bfloat16():
    params, tokens = params_of(QWEN), tokens_of(1, 8)
    cache = decoder.init_cache(QWEN, 1, 8, jnp.bfloat16)
    pieces = []
    for piece in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
        hidden, cache = decoder.apply_cached(
            QWEN, params, piece, cache, dtype=jnp.bfloat16
        )
        pieces.append(hidden)
    got = jnp.concatenate(pieces, axis=1)
    assert got.dtype == jnp.bfloat16 and int(cache.used) == 8
    want = decoder.apply(QWEN, params, tokens)
    assert np.abs(got.astype(jnp.float32) - want).mean() < 0.02


def test_cache_too_short_is_refused():
    cache = decoder.init_cache(QWEN, 1, 4)
    with pytest.raises(ValueError, match="5 tokens.*4 slots.*init_cache"):
        decoder.apply_cached(QWEN, params_of(QWEN), tokens_of(1, 5), cache)
