"""Shardings of a decoder's parameters, against shapes computed by hand."""

import jax
import pytest
from jax.sharding import PartitionSpec as P

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.parallel.rules import shardings, spec, undivided


def _tree(**changes):
    """(logical axes, abstract parameters) of a small decoder with an untied head."""
    sizes = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "tie_word_embeddings": False,
    }
    config = DecoderConfig(**sizes | changes)
    shapes = decoder.abstract_params(config)
    return decoder.logical_axes(config), shapes


def test_shardings_of_every_parameter():
    axes, shapes = _tree()
    result = shardings(axes, shapes, make_mesh(2, 2, 2))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="."): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(result)
    }
    into = P(None, ("fsdp", "context"), "tensor")
    out = P(None, "tensor", ("fsdp", "context"))
    assert specs == {
        "embed": P(None, ("fsdp", "context", "tensor")),
        "head": P(None, ("fsdp", "context", "tensor")),
        "final_norm": P(None),
        "layers.input_norm": P(None, None),
        "layers.post_norm": P(None, None),
        "layers.attention.q.kernel": into,
        "layers.attention.q.bias": P(None, "tensor"),
        "layers.attention.k.kernel": into,
        "layers.attention.k.bias": P(None, "tensor"),
        "layers.attention.v.kernel": into,
        "layers.attention.v.bias": P(None, "tensor"),
        "layers.attention.o.kernel": out,
        "layers.mlp.gate.kernel": into,
        "layers.mlp.up.kernel": into,
        "layers.mlp.down.kernel": out,
    }


def test_bytes_per_device():
    """Matrices are sharded over fsdp x tensor, norms are replicated."""
    axes, shapes = _tree(qkv_bias=False)
    mesh = make_mesh(2, 2, 2)
    params = jax.jit(
        lambda: jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes),
        out_shardings=shardings(axes, shapes, mesh),
    )()
    on_first = sum(
        leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(params)
    )
    # Per layer: q and o 32x32, k and v 32x16, three of 32x48; embedding and head.
    matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 2 * 264 * 32
    assert on_first == matrices // 4 + 5 * 32


def test_undivided_axes_are_replicated_and_named():
    # 4 query heads of 10 are 40 wide, 2 key/value heads 20: 8 divides the first only.
    axes, shapes = _tree(hidden_size=36, head_dim=10, qkv_bias=False)
    mesh = make_mesh(1, 1, 8)
    assert spec(("vocab", "table"), (260, 36), mesh) == P(None, ("fsdp", "context"))
    assert sorted(undivided(axes, shapes, mesh)) == [
        "embed",
        "head",
        "layers.attention.k.kernel",
        "layers.attention.v.kernel",
    ]
    # An axis of one device divides every dimension.
    assert undivided(axes, shapes, make_mesh(8, 1, 1)) == []
    axes, shapes = _tree()
    for sizes in ((2, 2, 2), (1, 8, 1), (1, 1, 8)):
        assert undivided(axes, shapes, make_mesh(*sizes)) == []


def test_a_dimension_is_sharded_over_the_first_axes_that_divide_it():
    """36 is a multiple of 4 and not of 8: it is sharded over fsdp only."""
    mesh = make_mesh(1, 4, 2)
    assert spec(("vocab", "table"), (260, 36), mesh) == P(None, ("fsdp", "context"))
    every = ("fsdp", "context", "tensor")
    assert spec(("vocab", "table"), (260, 40), mesh) == P(None, every)
    shared = make_mesh(1, 2, 2, context=2)
    assert spec(("vocab", "table"), (260, 36), shared) == P(None, every[:2])
    assert spec(("vocab", "table"), (260, 38), mesh) == P(None, None)


def test_an_unknown_name_is_refused_by_that_name():
    mesh = make_mesh(2, 2, 2)
    with pytest.raises(ValueError, match="no rule for logical axis experts"):
        spec(("layers", "experts"), (2, 8), mesh)
    with pytest.raises(ValueError, match="do not fit shape"):
        spec(("embed",), (32, 32), mesh)


def test_two_dimensions_on_one_mesh_axis_are_refused():
    """Such a sharding does not exist, and must not be replaced silently."""
    shape = jax.ShapeDtypeStruct((32, 48), "float32")
    with pytest.raises(Exception, match="duplicate entries for `tensor`"):
        shardings({"w": ("heads", "mlp")}, {"w": shape}, make_mesh(2, 2, 2))


def test_rules_can_be_replaced():
    mesh = make_mesh(2, 2, 2)
    rules = {"embed": ("tensor",), "vocab": ()}
    assert spec(("vocab", "embed"), (264, 32), mesh, rules) == P(None, "tensor")
