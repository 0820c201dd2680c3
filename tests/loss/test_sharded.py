"""The loss over eight devices: one device's numbers, and no chatter in the loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import zoo
from jax.sharding import AxisType, PartitionSpec

from targetsft_jax import METHODS, fused_loss
from targetsft_jax.loss import sharded_fused_loss

P = PartitionSpec
AXES = ("data", "fsdp", "tensor")
# [B, L] = [8, 6]: tensor divides the length, data and fsdp the batch.
MESHES = {
    "8x1x1": ((8, 1, 1), P(("data", "fsdp"), "tensor")),
    "2x2x2": ((2, 2, 2), P(("data", "fsdp"), "tensor")),
    "1x1x8": ((1, 1, 8), P(("data", "tensor"))),
    "1x4x2": ((1, 4, 2), P("fsdp", "tensor")),
    "2x4x1, replicated over fsdp": ((2, 4, 1), P("data")),
}


def _mesh(shape):
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def _sharded(name, mesh, tokens, **hyper):
    """The sharded loss as a jitted value-and-gradient."""
    options = {"mesh": mesh, "tokens": tokens, "chunk_size": 4, **hyper}

    def loss(hidden, head, labels, arguments):
        return sharded_fused_loss(name, hidden, head, labels, **arguments, **options)

    pulled = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(pulled, compiler_options=problems.QUICK)


def _assert_same(made, wanted):
    """All leaves to the rounding of sums in another order."""
    (loss, metrics), pulls = made
    (expected, statistics), gradients = wanted
    np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-15)
    assert metrics.keys() == statistics.keys()
    for key, value in statistics.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-12, atol=1e-15)
    for left, right in zip(pulls, gradients):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)
        assert np.abs(right).max() > 1e-4


@pytest.mark.parametrize("layout", MESHES)
def test_equals_one_device_on_every_mesh(layout: str):
    shape, tokens = MESHES[layout]
    with jax.enable_x64(True):
        inputs = problems.problem("float64", "holes", 3)
        sharded = _sharded("target_sft", _mesh(shape), tokens)
        plain = problems.compiled(zoo.Case("target_sft"))
        _assert_same(sharded(*inputs), plain(*inputs))


@pytest.mark.parametrize("name", METHODS)
def test_equals_one_device_for_every_method(name: str):
    """Every method's columns and second model are spread as the tokens are."""
    shape, tokens = MESHES["2x2x2"]
    with jax.enable_x64(True):
        inputs = problems.problem("float64", "all", 3)
        sharded = _sharded(name, _mesh(shape), tokens)
        _assert_same(sharded(*inputs), problems.compiled(zoo.Case(name))(*inputs))


def test_value_alone_and_weights_of_zero():
    shape, tokens = MESHES["2x2x2"]
    options = {"mesh": _mesh(shape), "tokens": tokens}
    for mask in ("holes", "none"):
        hidden, head, labels, arguments = problems.problem("float32", mask)
        given = ("target_sft", hidden, head, labels)
        loss, metrics = sharded_fused_loss(*given, **arguments, **options)
        wanted, statistics = fused_loss(*given, **arguments)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
        for key, value in statistics.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-7)
        if mask == "none":
            assert loss == 0


def test_a_users_loss_is_spread_too():
    def scaled(logits, labels, *, boost, factor):
        log_p = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
        return -factor * boost * own

    shape, tokens = MESHES["2x2x2"]
    with jax.enable_x64(True):
        hidden, head, labels, arguments = problems.problem("float64", "holes")
        boost = np.linspace(1, 2, labels.size).reshape(labels.shape)
        given = {"weights": arguments["weights"], "boost": boost}
        sharded = _sharded(scaled, _mesh(shape), tokens, factor=1.5)

        def plain(hidden, head):
            return fused_loss(scaled, hidden, head, labels, **given, factor=1.5)

        _assert_same(
            sharded(hidden, head, labels, given),
            jax.value_and_grad(plain, (0, 1), has_aux=True)(hidden, head),
        )


def _computations(hlo: str) -> dict[str, str]:
    """name -> text of every computation of an HLO module."""
    pattern = r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*)\{\n(.*?)^\}"
    return {m[1]: m[2] for m in re.finditer(pattern, hlo, re.M | re.S)}


def _in_loops(hlo: str) -> str:
    """The text of all computations that a while loop reaches, loops excluded none."""
    bodies = _computations(hlo)
    todo = re.findall(r"(?:body|condition)=%?([\w.\-]+)", hlo)
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        todo += [other for other in bodies if re.search(rf"%{other}\b", bodies[name])]
    return "\n".join(bodies[name] for name in seen)


KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = rf"= [^\n]*?\b({KINDS})(?:-start)?\("


@pytest.mark.parametrize("name", ["sft", "target_sft"])
def test_the_head_gradient_is_summed_once_and_outside_the_loop(name: str):
    shape, tokens = MESHES["2x2x2"]
    mesh = _mesh(shape)
    hidden, head, labels, arguments = problems.problem("float32")
    spread = jax.NamedSharding(mesh, tokens)
    whole = jax.NamedSharding(mesh, P())
    needed = {"weights": arguments["weights"]}
    if name == "target_sft":
        h, w = arguments["teacher"]
        needed["teacher"] = (jax.device_put(h, spread), jax.device_put(w, whole))
    sharded = _sharded(name, mesh, tokens)
    hlo = (
        sharded.lower(
            jax.device_put(hidden, spread),
            jax.device_put(head, whole),
            jax.device_put(labels, spread),
            needed,
        )
        .compile()
        .as_text()
    )
    loop = _in_loops(hlo)
    assert "dot" in loop or "custom-call" in loop, "the loop over chunks was not found"
    assert not re.findall(COLLECTIVE, loop)
    lines = [m[0] for m in re.finditer(COLLECTIVE + r"[^\n]*", hlo)]
    assert {re.search(COLLECTIVE, line)[1] for line in lines} == {"all-reduce"}
    ours = f"f32[{problems.V},{problems.D}]"
    # One all-reduce may carry several arrays; the head's is in one of them, once.
    assert sum(line.split("all-reduce")[0].count(ours) for line in lines) == 1
