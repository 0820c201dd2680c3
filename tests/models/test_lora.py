"""Adapters: where they are, what they start as, and what they do to a kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.models.lora import Lora

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
    made = decoder.init_params(CONFIG, jax.random.key(1))
    return jax.tree.map(lambda x: (4 * x).astype(dtype), made)


def _filled():
    """Adapters whose B is no longer zero."""
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


def test_layers_and_targets_draw_their_own_numbers():
    layers = lora.init_adapters(CONFIG, LORA, KEY)["layers"]
    q, v = (layers["attention"][name]["lora_a"] for name in "qv")
    for one, other in ((q[0], q[1]), (q, v)):
        assert abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 0.3
    assert np.abs(q).max() <= 32**-0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_change_nothing(dtype):
    """To the bit: what is added is zero."""
    base = _base()
    with_adapters = lora.attach(base, lora.init_adapters(CONFIG, LORA, KEY), LORA)
    run = jax.jit(partial(decoder.apply, CONFIG, tokens=_tokens(), dtype=dtype))
    np.testing.assert_array_equal(run(with_adapters), run(base))
    changed = run(lora.attach(base, _filled(), LORA))
    assert np.abs(np.asarray(changed - run(base), "float32")).max() > 0.1


def test_the_base_is_neither_copied_nor_changed():
    base = _base()
    made = lora.attach(base, _filled(), LORA)
    assert (
        made["layers"]["attention"]["q"]["kernel"]
        is (base["layers"]["attention"]["q"]["kernel"])
    )
    assert made["embed"] is base["embed"]
    assert "lora_a" not in base["layers"]["attention"]["q"]
    assert "lora_a" not in made["layers"]["attention"]["k"]


def test_a_cache_sees_the_same_model():
    """A prompt and then single tokens, against the whole row at once."""
    params, tokens = lora.attach(_base(), _filled(), LORA), _tokens()
    forward = jax.jit(partial(decoder.apply, CONFIG))
    cached = jax.jit(partial(decoder.apply_cached, CONFIG))
    hidden, cache = cached(params, tokens[:, :11], decoder.init_cache(CONFIG, 2, 12))
    last, _ = cached(params, tokens[:, 11:], cache)
    found = np.concatenate([hidden, last], axis=1)
    np.testing.assert_allclose(found, forward(params, tokens), atol=2e-5)
    assert np.abs(found - forward(_base(), tokens)).max() > 0.1


def test_a_sum_is_rounded_once():
    """Over bfloat16 kernels: the float64 sum of what is stored, to the nearest."""
    base, adapters = _base("bfloat16"), _filled()
    made = lora.merged(base, adapters, LORA)["layers"]["mlp"]["down"]["kernel"]
    assert (made.shape, made.dtype) == ((2, 40, 32), jnp.bfloat16)
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
        wanted = jnp.asarray(kernel + 2.5 * a @ b, jnp.float32).astype(jnp.bfloat16)
        found = np.asarray(made[layer], np.float32)
        # Half-way cases may fall to the other side.
        assert np.mean(found != np.asarray(wanted, np.float32)) < 0.01
        assert found.shape == (40, 32)


def test_what_cannot_be_adapted_is_refused():
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
