"""Adapters: their shapes, initial values, and effect on a kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import decoder, lora, ring
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.models.lora import Lora
from targetsft_jax.models.unstacked import decoding_weights

CONFIG = DecoderConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
)
LORA = Lora(3, 7.5, ("q", "v", "down"))
KEY = jax.random.key(0)


def _base(dtype="float32"):
    params = decoder.init_params(CONFIG, jax.random.key(1))
    return jax.tree.map(lambda x: (4 * x).astype(dtype), params)


def _filled():
    """Adapters with nonzero B, as after training."""
    rng = np.random.default_rng(0)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jnp.asarray(rng.normal(size=x.shape) / 4, "float32")
            if path[-1].key == "lora_b"
            else x
        ),
        lora.init_adapters(CONFIG, LORA, KEY),
    )


def _tokens(length=12):
    return np.random.default_rng(3).integers(0, 61, (2, length)).astype(np.int32)


def test_adapters_have_the_kernels_shapes_and_axes():
    adapters = lora.init_adapters(CONFIG, LORA, KEY)
    assert jax.tree.map(lambda x: x.shape, adapters) == {
        "layers": {
            "attention": {
                "q": {"lora_a": (2, 32, 3), "lora_b": (2, 3, 32)},
                "v": {"lora_a": (2, 32, 3), "lora_b": (2, 3, 16)},
            },
            "mlp": {"down": {"lora_a": (2, 40, 3), "lora_b": (2, 3, 32)}},
        }
    }
    assert lora.logical_axes(CONFIG, LORA) == {
        "layers": {
            "attention": {
                "q": {
                    "lora_a": ("layers", "embed", None),
                    "lora_b": ("layers", None, "heads"),
                },
                "v": {
                    "lora_a": ("layers", "embed", None),
                    "lora_b": ("layers", None, "kv_heads"),
                },
            },
            "mlp": {
                "down": {
                    "lora_a": ("layers", "mlp", None),
                    "lora_b": ("layers", None, "embed"),
                }
            },
        }
    }
    numbers = sum(x.size for x in jax.tree.leaves(adapters))
    assert lora.num_adapter_parameters(CONFIG, LORA) == numbers == 2 * 3 * 184
    assert all(x.dtype == "float32" for x in jax.tree.leaves(adapters))


def test_layers_and_targets_are_initialized_differently():
    layers = lora.init_adapters(CONFIG, LORA, KEY)["layers"]
    q, v = (layers["attention"][name]["lora_a"] for name in "qv")
    for one, other in ((q[0], q[1]), (q, v)):
        assert abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 0.3
    assert np.abs(q).max() <= 32**-0.5


@pytest.mark.sweep(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_change_nothing(dtype):
    """Bit for bit, since zero is added."""
    base = _base()
    with_adapters = lora.attach(base, lora.init_adapters(CONFIG, LORA, KEY), LORA)
    run = jax.jit(partial(decoder.apply, CONFIG, tokens=_tokens(), dtype=dtype))
    np.testing.assert_array_equal(run(with_adapters), run(base))
    changed = run(lora.attach(base, _filled(), LORA))
    assert np.abs(np.asarray(changed - run(base), "float32")).max() > 0.1


def test_the_base_is_neither_copied_nor_changed():
    base = _base()
    attached = lora.attach(base, _filled(), LORA)
    assert (
        attached["layers"]["attention"]["q"]["kernel"]
        is (base["layers"]["attention"]["q"]["kernel"])
    )
    assert attached["embed"] is base["embed"]
    assert "lora_a" not in base["layers"]["attention"]["q"]
    assert "lora_a" not in attached["layers"]["attention"]["k"]


def test_adapters_apply_with_a_cache():
    """A prompt and then single tokens, against one pass over the row."""
    params, tokens = lora.attach(_base(), _filled(), LORA), _tokens()
    forward = jax.jit(partial(decoder.apply, CONFIG))
    ones = jnp.ones((2, 11), jnp.int32)
    prompts = jax.jit(partial(decoder.apply_prompts, CONFIG))
    hidden, keys, values = prompts(params, tokens[:, :11], segment_ids=ones)
    step = jnp.int32(11)
    caches = tuple(
        ring.prompt_cache(key, value, 12, step) for key, value in zip(keys, values)
    )
    weights = decoding_weights(params, jnp.float32)
    last, _ = jax.jit(partial(decoder.apply_token, CONFIG))(
        weights, tokens[:, 11], ones.sum(1), step, caches
    )
    actual = np.concatenate([hidden, last[:, None]], axis=1)
    np.testing.assert_allclose(actual, forward(params, tokens), atol=2e-5)
    assert np.abs(actual - forward(_base(), tokens)).max() > 0.1


def test_merged_kernels_are_rounded_once():
    """With bfloat16 kernels: the float64 sum of the stored values, rounded once."""
    base, adapters = _base("bfloat16"), _filled()
    merged = lora.merged(base, adapters, LORA)["layers"]["mlp"]["down"]["kernel"]
    assert (merged.shape, merged.dtype) == ((2, 40, 32), jnp.bfloat16)
    pair = adapters["layers"]["mlp"]["down"]
    for layer in range(2):
        kernel, a, b = (
            np.asarray(x[layer], np.float64)
            for x in (
                base["layers"]["mlp"]["down"]["kernel"],
                pair["lora_a"],
                pair["lora_b"],
            )
        )
        expected = jnp.asarray(kernel + 2.5 * a @ b, jnp.float32).astype(jnp.bfloat16)
        actual = np.asarray(merged[layer], np.float32)
        # Ties may round to the other neighbour.
        assert np.mean(actual != np.asarray(expected, np.float32)) < 0.01
        assert actual.shape == (40, 32)


def test_unknown_targets_and_large_ranks_are_refused():
    with pytest.raises(
        ValueError, match="lora.targets has qkv; expected projections"
    ) as e:
        lora.init_adapters(CONFIG, Lora(2, 1.0, ("q", "qkv")), KEY)
    assert str(e.value).endswith("k, o, q, v, down, gate, up")
    with pytest.raises(ValueError, match="layers.attention.v is 32 x 16") as e:
        lora.init_adapters(CONFIG, Lora(17, 1.0, ("q", "v")), KEY)
    assert "lora.rank is 17" in str(e.value) and "at most 16" in str(e.value)


def test_merged_kernels_are_layer_leaves():
    kernel = jnp.ones((2, 4, 3))
    merged = lora.Merged(kernel, kernel[..., :1], kernel[:, :1], 0.5, kernel.dtype)
    assert isinstance(merged, LayerLeaf) and merged.shape == (2, 4, 3)
