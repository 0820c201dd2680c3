"""The decoder: packing, padding, KV cache, precision, remat, and parameter shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from targetsft_jax.models import decoder, kernels, ring
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.remat import REMAT_POLICIES
from targetsft_jax.models.rope import LinearScaling, RopeScaling
from targetsft_jax.models.unstacked import Weights, decoding_weights

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
# The features of all families, and two layers beyond the last full period.
GEMMA = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=5,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_scaling=LinearScaling(4.0),
    partial_rotary_factor=0.75,
    o_bias=True,
    qk_norm=True,
    unit_offset=True,
    output_norms=True,
    scale_embedding=True,
    activation="gelu_tanh",
    query_pre_attn_scalar=5,
    attn_logit_softcap=3.0,
    sliding_window=3,
    sliding_layers=(True, True, False, True, True),
    local_rope_theta=50.0,
)
ALL = pytest.mark.parametrize(
    "config", [QWEN, LLAMA, GEMMA], ids=["qwen", "llama", "gemma"]
)


# One shape for all passes and few programs, shared by the tests, since compilation
# dominates their time. Outside jit, each primitive would be compiled separately.
ROWS, LENGTH = 4, 10
TOKENS = np.random.default_rng(2).integers(0, 40, (ROWS, LENGTH)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
PROBE = np.random.default_rng(3).normal(size=(ROWS, LENGTH, 16)).astype(np.float32)

forward = jax.jit(decoder.apply, static_argnums=0)
prompts = jax.jit(decoder.apply_prompts, static_argnums=0, static_argnames="dtype")
token = jax.jit(decoder.apply_token, static_argnums=0, static_argnames="dtype")
PLAIN = dict(dtype=jnp.float32, remat="none")


@functools.partial(jax.jit, static_argnums=0, static_argnames=("dtype", "remat"))
def backward(config, params, tokens, segments, positions, probe, *, dtype, remat):
    """Hidden states, sum(probe * hidden), and its gradient for the parameters."""

    def probed(params):
        hidden = decoder.apply(
            config,
            params,
            tokens,
            segment_ids=segments,
            positions=positions,
            dtype=dtype,
            remat=remat,
        )
        return jnp.sum(probe * hidden.astype(jnp.float32)), hidden

    (value, hidden), gradient = jax.value_and_grad(probed, has_aux=True)(params)
    return hidden, value, gradient


@functools.cache
def params_of(config):
    """Random parameters, large enough that an omitted part changes the result."""
    shapes = decoder.abstract_params(config)
    rng = np.random.default_rng(1)

    def noisy(path, leaf):
        noise = 0.2 * rng.normal(size=leaf.shape)
        middle = 1 if "norm" in path[-1].key else 0
        return jnp.asarray(middle + noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(noisy, shapes)


WRITTEN_OUT = (
    QWEN,
    params_of(QWEN),
    TOKENS,
    np.ones_like(TOKENS),
    POSITIONS,
    PROBE,
)


@ALL
def test_tree_agrees_with_its_axes_and_count(config):
    params = decoder.abstract_params(config)
    axes = decoder.logical_axes(config)
    is_axes = functools.partial(lambda x: isinstance(x, tuple))
    sizes = {
        "layers": config.num_layers,
        "vocab": config.vocab_size,
        "embed": config.hidden_size,
        "table": config.hidden_size,
        "heads": config.num_heads * config.head_dim,
        "kv_heads": config.num_kv_heads * config.head_dim,
        "mlp": config.intermediate_size,
    }

    def check(names, leaf):
        # Dimensions of norms have no names; the count below checks them.
        expected = [sizes.get(name, size) for name, size in zip(names, leaf.shape)]
        assert list(leaf.shape) == expected and len(names) == leaf.ndim

    jax.tree.map(check, axes, params, is_leaf=is_axes)
    assert decoder.num_parameters(config) == counted(config)


def counted(config):
    """The number of parameters by a formula, independent of the decoder's shapes."""
    d, queries = config.hidden_size, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    attention = d * (queries + 2 * keys) + queries * d
    biases = queries + 2 * keys if config.qkv_bias else 0
    biases += d if config.o_bias else 0
    norms = (4 if config.output_norms else 2) * d
    norms += 2 * config.head_dim if config.qk_norm else 0
    layer = attention + biases + 3 * d * config.intermediate_size + norms
    tables = 1 if config.tie_word_embeddings else 2
    return tables * config.vocab_size * d + config.num_layers * layer + d


def test_known_parameter_counts():
    """The published sizes of models of every family."""
    qwen = DecoderConfig(151936, 1536, 8960, 28, 12, 2)
    llama = DecoderConfig(
        128256, 4096, 14336, 32, 32, 8, tie_word_embeddings=False, qkv_bias=False
    )
    assert decoder.num_parameters(qwen) == 1_543_714_304
    assert decoder.num_parameters(llama) == 8_030_261_248
    plain = dict(qkv_bias=False, tie_word_embeddings=False)
    mistral = DecoderConfig(32000, 4096, 14336, 32, 32, 8, **plain)
    assert decoder.num_parameters(mistral) == 7_241_732_096
    phi3 = DecoderConfig(32064, 3072, 8192, 32, 32, 32, **plain)
    assert decoder.num_parameters(phi3) == 3_821_079_552
    deepseek = DecoderConfig(102400, 4096, 11008, 30, 32, 32, **plain)
    assert decoder.num_parameters(deepseek) == 6_910_365_696
    qwen3 = DecoderConfig(
        151936, 1024, 3072, 28, 16, 8, head_dim=128, qkv_bias=False, qk_norm=True
    )
    assert decoder.num_parameters(qwen3) == 596_049_920
    gemma = dict(qkv_bias=False, output_norms=True, head_dim=256)
    gemma2 = DecoderConfig(256000, 2304, 9216, 26, 8, 4, **gemma)
    assert decoder.num_parameters(gemma2) == 2_614_341_888
    gemma3 = DecoderConfig(262144, 1152, 6912, 26, 4, 1, qk_norm=True, **gemma)
    assert decoder.num_parameters(gemma3) == 999_885_952


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


@pytest.mark.sweep(1)
@ALL
def test_packed_segments_equal_separate_rows(config):
    sizes = [4, 3, 3]
    places = [slice(start, start + size) for start, size in zip([0, 4, 7], sizes)]
    segments, restarted = np.ones_like(TOKENS), POSITIONS.copy()
    # One segment per row as well. The tokens after it are not compared, and do not
    # change it (test_causal).
    alone, probe_alone = TOKENS.copy(), np.zeros_like(PROBE)
    probe = PROBE * (np.arange(ROWS) == 0)[:, None, None]
    for row, (place, size) in enumerate(zip(places, sizes)):
        segments[0, place] = row + 1
        restarted[0, place] = range(size)
        alone[row, :size] = TOKENS[0, place]
        probe_alone[row, :size] = PROBE[0, place]

    run = functools.partial(backward, config, params_of(config), **PLAIN)
    rows, _, want_grad = run(alone, np.ones_like(TOKENS), POSITIONS, probe_alone)
    expected = np.concatenate([row[:size] for row, size in zip(rows, sizes)])
    for positions in (restarted, POSITIONS):  # rotary angles are relative
        hidden, _, grad = run(TOKENS, segments, positions, probe)
        np.testing.assert_allclose(hidden[0], expected, atol=2e-5)
        for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-4)
    assert np.abs(want_grad["embed"]).max() > 1e-2
    crossed = forward(config, params_of(config), TOKENS)[0]
    assert np.abs(crossed - expected)[sizes[0] :].max() > 1e-2


def test_defaults_of_positions_and_segments():
    default, _, _ = backward(*WRITTEN_OUT, **PLAIN)
    actual = forward(QWEN, params_of(QWEN), TOKENS)
    np.testing.assert_allclose(actual, default, atol=1e-5)


@ALL
def test_causal(config):
    changed = TOKENS.copy()
    changed[0, 5] = (changed[0, 5] + 1) % 40
    difference = np.abs(
        forward(config, params_of(config), TOKENS)
        - forward(config, params_of(config), changed)
    )
    assert difference[0, :5].max() < 1e-6
    assert difference[0, 5:].max(axis=-1).min() > 1e-3
    assert difference[1:].max() < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_padding_is_finite_and_has_no_effect(dtype):
    segments = np.ones_like(TOKENS)
    segments[0, 5:] = segments[1] = segments[2, :5] = 0
    probe = np.where(segments[..., None] > 0, PROBE, 0)

    def run(tokens):
        arrays = (params_of(QWEN), tokens, segments, POSITIONS, probe)
        return backward(QWEN, *arrays, dtype=dtype, remat="none")

    hidden, value, grad = run(TOKENS)
    assert hidden.dtype == dtype and np.isfinite(np.asarray(hidden, np.float32)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))
    other = np.where(segments > 0, TOKENS, (TOKENS + 7) % 40)
    changed, other_value, _ = run(other)
    assert np.asarray(changed != hidden)[segments == 0].any()
    assert other_value == value


def test_bfloat16_is_near_float32():
    rounded, _, _ = backward(*WRITTEN_OUT, dtype=jnp.bfloat16, remat="none")
    exact = np.asarray(forward(QWEN, params_of(QWEN), TOKENS))
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(np.asarray(rounded, np.float32) - exact)
    assert 0 < error.mean() < 0.01 * np.abs(exact).mean() + 0.01


def program(remat):
    traced = backward.trace(*WRITTEN_OUT, dtype=jnp.float32, remat=remat)
    return str(traced.jaxpr)


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_remat_changes_no_gradient(remat):
    assert "remat" in program(remat) or "checkpoint" in program(remat)
    assert program(remat) != program("none")
    other = {**PLAIN, "remat": remat}
    _, _, expected = backward(*WRITTEN_OUT, **PLAIN)
    _, _, actual = backward(*WRITTEN_OUT, **other)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_remat_policies_differ_in_recomputed_products():
    """A policy that saves more recomputes fewer products."""
    products = {name: program(name).count("dot_general") for name in REMAT_POLICIES}
    order = ("none", "dots", "attention_block", "attention", "full")
    counts = [products[name] for name in order]
    assert counts == sorted(set(counts))
    assert products["offload"] == products["dots"]


def test_offloaded_activations_are_in_host_memory():
    """Written by the forward pass and read back by the backward pass."""
    assert "host" in program("offload") and "host" not in program("dots")


def test_unknown_remat_is_refused():
    with pytest.raises(ValueError, match="'some'.*none, full, attention"):
        decoder.apply(QWEN, params_of(QWEN), TOKENS, remat="some")


def test_head_is_the_embedding_only_when_tied():
    assert decoder.head(params_of(QWEN)) is params_of(QWEN)["embed"]
    assert decoder.head(params_of(LLAMA)) is params_of(LLAMA)["head"]


def test_sharded_equals_single_device():
    mesh = jax.make_mesh(
        (4, 2), ("rows", "cols"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    where = {"embed": "rows", "heads": "cols", "kv_heads": "cols", "mlp": "cols"}
    where |= {"vocab": "cols", "table": "rows"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        decoder.logical_axes(QWEN),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    split = jax.device_put(params_of(QWEN), shardings)
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    seen = []

    def constrain(x):
        seen.append(x.shape)
        return jax.lax.with_sharding_constraint(x, rows)

    run = functools.partial(decoder.apply, QWEN, constrain=constrain)
    hidden = jax.jit(run)(split, jax.device_put(TOKENS, rows))
    assert seen and set(seen) == {(ROWS, LENGTH, 16)}
    expected = forward(QWEN, params_of(QWEN), TOKENS)
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


def cached(config, weights, prompt, real, later, dtype=jnp.float32, slots=LENGTH):
    """Hidden states of prompts and then of single tokens [B, N], one by one.

    The ring starts at step 5, and overflows where a layer has a window.
    """
    hidden, keys, values = prompts(
        config, weights.params, prompt, segment_ids=real, dtype=dtype
    )
    step = jnp.int32(5)
    caches = tuple(
        ring.prompt_cache(key, value, length, step)
        for key, value, length in zip(keys, values, ring.layer_slots(config, slots))
    )
    states = []
    for index, column in enumerate(later.T):
        positions = real.sum(1).astype(np.int32) + index
        one, caches = token(
            config, weights, column, positions, step + index, caches, dtype=dtype
        )
        states.append(one)
    return np.asarray(hidden), np.stack(states, axis=1)


@pytest.mark.sweep(2)
@ALL
@pytest.mark.parametrize("joined", [True, False])
def test_cache_equals_the_full_forward(config, joined):
    """Prompts of 3 and 6 tokens, padded to 6, then four tokens one by one.

    With joined projections of unstacked layers, and with those of training.
    """
    params = params_of(config)
    lengths, width, new = [3, 6], 6, 4
    prompt, real = np.zeros((2, width), np.int32), np.zeros((2, width), np.int32)
    for row, length in enumerate(lengths):
        prompt[row, width - length :] = TOKENS[row, :length]
        real[row, width - length :] = 1
    fed = np.stack([TOKENS[row, n : n + new] for row, n in enumerate(lengths)])
    weights = Weights(params, None)
    if joined:
        weights = decoding_weights(params, jnp.float32)
        assert set(weights.layers[0]["mlp"]) == {"gate_up", "down"}
    hidden, later = cached(config, weights, prompt, real, fed)
    # Both passes round, and layers amplify it: the cached one may err three times as
    # much as the uncached one does against float64.
    full = forward(config, params, TOKENS)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        exact = np.asarray(decoder.apply(config, wide, TOKENS, dtype=np.float64))
    assert exact.dtype == np.float64
    allowed = 3 * np.abs(full - exact).max()
    assert allowed < 3e-4
    for row, length in enumerate(lengths):
        want = exact[row, : length + new]
        np.testing.assert_allclose(
            hidden[row][real[row] == 1], want[:length], atol=allowed
        )
        np.testing.assert_allclose(later[row], want[length:], atol=allowed)


def test_alternating_layers_run_the_kernel_of_their_window():
    """Each layer runs one of two kernels, also when remat recomputes it."""
    windows = set()

    def kernel(*arrays, window, **how):
        windows.add(window)
        return kernels.xla(*arrays, window=window, **how)

    def pulled(attend, remat):
        def probed(params):
            hidden = decoder.apply(GEMMA, params, TOKENS, remat=remat, attend=attend)
            return jnp.sum(PROBE * hidden)

        return jax.jit(jax.value_and_grad(probed))(params_of(GEMMA))

    expected_value, expected_gradient = pulled(None, "none")
    for remat in ("full", "dots"):
        value, gradient = pulled(kernel, remat)
        assert float(value) == pytest.approx(float(expected_value), rel=1e-5)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-4)
    assert windows == {3, None}


def test_alternating_layers_are_compiled_once():
    """The program has as many products with weights as that of one layer."""

    def products(config):
        run = functools.partial(decoder.apply, config)
        text = str(jax.make_jaxpr(run)(params_of(config), TOKENS))
        return text.count("dot_general")

    one = dataclasses.replace(
        GEMMA, num_layers=1, sliding_layers=None, sliding_window=3
    )
    assert products(GEMMA) == products(one)


def test_cache_in_bfloat16():
    """The cache has the compute dtype."""
    real = np.ones((1, 4), np.int32)
    weights = decoding_weights(params_of(QWEN), jnp.bfloat16)
    assert weights.layers[0]["mlp"]["down"]["kernel"].dtype == jnp.bfloat16
    fed = (QWEN, weights, TOKENS[:1, :4], real, TOKENS[:1, 4:])
    pieces = cached(*fed, dtype=jnp.bfloat16)
    actual = np.concatenate(pieces, axis=1)
    assert actual.dtype == jnp.bfloat16
    expected = forward(QWEN, params_of(QWEN), TOKENS)[:1]
    assert np.abs(actual.astype(np.float32) - expected).mean() < 0.02
