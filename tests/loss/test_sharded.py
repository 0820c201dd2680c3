"""Loss over eight devices: equal to one device, one collective in the loop."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support import loss_problems, method_cases
from support.mesh_layouts import GROUPS, LAYOUTS, layout_of
from support.quick import quicker

from targetsft_jax import METHODS, fused_loss
from targetsft_jax.loss import reference_loss


def _sharded(name, layout, **hyper):
    """The sharded loss as a jitted value-and-gradient."""
    options = {"layout": layout_of(layout), "chunk_size": 4, **hyper}

    def loss(hidden, head, labels, arguments):
        return fused_loss(name, hidden, head, labels, **arguments, **options)

    value_and_grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(value_and_grad, compiler_options=quicker())


def _assert_same(actual, reference):
    """All leaves to the rounding of sums in another order."""
    (loss, metrics), pulls = actual
    (expected, statistics), gradients = reference
    np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-15)
    assert metrics.keys() == statistics.keys()
    for key, value in statistics.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-12, atol=1e-15)
    for left, right in zip(pulls, gradients):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)
        assert np.abs(right).max() > 1e-4


@pytest.mark.sweep(4)
@pytest.mark.parametrize("layout", [*LAYOUTS, *GROUPS])
def test_equals_one_device_on_every_mesh(layout: str):
    with jax.enable_x64(True):
        inputs = loss_problems.problem("float64", "holes", 3)
        sharded = _sharded("target_sft", layout)
        plain = loss_problems.compiled(method_cases.Case("target_sft"))
        _assert_same(sharded(*inputs), plain(*inputs))


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", METHODS)
def test_equals_one_device_for_every_method(name: str):
    """Columns and second models of every method are sharded as the tokens are: rows,
    and the tokens of a row."""
    with jax.enable_x64(True):
        inputs = loss_problems.problem("float64", "all", 3)
        sharded = _sharded(name, list(GROUPS)[-1])
        _assert_same(
            sharded(*inputs), loss_problems.compiled(method_cases.Case(name))(*inputs)
        )


@pytest.mark.parametrize("layout", ["all three", "fsdp groups"])
def test_a_guidance_per_token_equals_one_device_and_the_reference(layout: str):
    """η as an array: the mix differs per token, and takes a collective of its own."""
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes", 3)
        eta = np.resize([0.0, 0.25, 0.5, 1.0], labels.shape)
        inputs = hidden, head, labels, {**arguments, "eta": eta}
        same = loss_problems.cut(arguments, loss_problems.V)
        plain = loss_problems.compiled(method_cases.Case("target_sft"))(*inputs)
        _assert_same(_sharded("target_sft", layout)(*inputs), plain)
        expected, pulls = jax.value_and_grad(
            lambda *tensors: reference_loss(
                "target_sft", *tensors, labels, **same, eta=eta
            ),
            (0, 1),
        )(hidden, head)
        np.testing.assert_allclose(plain[0][0], expected, rtol=1e-12)
        for left, right in zip(plain[1], pulls):
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", ["all three", "fsdp groups", *list(GROUPS)[1:2]])
def test_a_frozen_head_changes_nothing_but_its_gradient(layout: str):
    """Loss, metrics and ∂hidden on one device and on many; ∂head is zero."""
    with jax.enable_x64(True):
        inputs = loss_problems.problem("float64", "holes", 3)
        sharded = _sharded("target_sft", layout, head_gradient=False)
        actual, (d_hidden, d_head) = sharded(*inputs)
        reference, pulls = loss_problems.compiled(method_cases.Case("target_sft"))(
            *inputs
        )
        _assert_same((actual, (d_hidden,)), (reference, pulls[:1]))
        assert not np.any(d_head)


@pytest.mark.slow
def test_value_alone_and_weights_of_zero():
    options = {"layout": layout_of("fsdp groups")}
    for mask in ("holes", "none"):
        hidden, head, labels, arguments = loss_problems.problem("float32", mask)
        tensors = ("target_sft", hidden, head, labels)
        loss, metrics = fused_loss(*tensors, **arguments, **options)
        reference, statistics = fused_loss(*tensors, **arguments)
        np.testing.assert_allclose(loss, reference, rtol=1e-5)
        for key, value in statistics.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-7)
        if mask == "none":
            assert loss == 0


def test_a_users_loss_is_sharded_too():
    def scaled(logits, labels, *, boost, factor):
        log_p = jax.nn.log_softmax(logits)
        log_p_y = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
        return -factor * boost * log_p_y

    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes")
        boost = np.linspace(1, 2, labels.size).reshape(labels.shape)
        tensors = {"weights": arguments["weights"], "boost": boost}
        sharded = _sharded(scaled, "fsdp groups", factor=1.5)

        def plain(hidden, head):
            return fused_loss(scaled, hidden, head, labels, **tensors, factor=1.5)

        _assert_same(
            sharded(hidden, head, labels, tensors),
            jax.value_and_grad(plain, (0, 1), has_aux=True)(hidden, head),
        )


def _computations(hlo: str) -> dict[str, str]:
    """name -> text of every computation of an HLO module."""
    pattern = r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*)\{\n(.*?)^\}"
    return {m[1]: m[2] for m in re.finditer(pattern, hlo, re.M | re.S)}


def _in_loops(hlo: str) -> str:
    """Text of all computations reachable from a while loop, nested loops included."""
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


def _text(layout, name="target_sft"):
    """Compiled text of loss and gradients, with arrays sharded as stored."""
    mesh_layout = layout_of(layout)
    hidden, head, labels, arguments = loss_problems.problem("float32")

    def shard(x, spec):
        return jax.device_put(x, NamedSharding(mesh_layout.mesh, spec))

    def rows(x):
        return shard(x, P(mesh_layout.tokens))

    def stored(head):
        return shard(head, P(None, mesh_layout.stored(head.shape[1])))

    states, other = arguments["teacher"]
    tensors = {"weights": rows(arguments["weights"])}
    if name == "target_sft":
        tensors["teacher"] = (rows(states), stored(other))
    if name == "kl":
        tensors["reference"] = (rows(states), stored(other))
    sharded = _sharded(name, layout)
    return (
        sharded.lower(rows(hidden), stored(head), rows(labels), tensors)
        .compile()
        .as_text()
    )


def _split(text) -> tuple[list[str], list[str]]:
    """Lines of collectives inside loops, and outside."""
    loop = _in_loops(text)
    assert "dot" in loop or "custom-call" in loop, "no loop over chunks"
    inside = [m[0] for m in re.finditer(COLLECTIVE + r"[^\n]*", loop)]
    lines = [m[0] for m in re.finditer(COLLECTIVE + r"[^\n]*", text)]
    assert len(lines) > len(inside)
    return inside, [line for line in lines if line not in inside]


# A row of statistics is 4 numbers for the student and 4 for each alternative.
@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "name, numbers",
    [("sft", 4), ("dft", 4), ("gem", 8), ("kl", 8), ("target_sft", 12)],
)
@pytest.mark.parametrize(
    "layout", ["2 data 4 tensor", "fsdp groups", "8 fsdp, vocabulary"]
)
def test_one_small_collective_in_the_loop(name: str, numbers: int, layout: str):
    inside, _ = _split(_text(layout, name))
    where = layout_of(layout)
    parts = math.prod(where.mesh.shape[axis] for axis in where.vocabulary)
    assert len(inside) == 1
    assert f"f32[{parts},{numbers},4]" in inside[0]
    assert "all-gather" in inside[0]


# ∂head's shape when it is summed: [V, D] float32 over data, its columns' part where it
# is stored over the axis that sums it, [rows, D] where the vocabulary is split.
@pytest.mark.parametrize(
    "layout, kind, shape",
    [
        ("8 data", "all-reduce", "f32[53,16]"),
        ("8 fsdp, replicated heads", "reduce-scatter", "f32[53,2]"),
        ("2 data 4 tensor", "all-reduce", "f32[56,4]"),
    ],
)
def test_the_head_gradient_is_summed_once_and_outside_the_loop(layout, kind, shape):
    inside, outside = _split(_text(layout, "sft"))
    assert not [line for line in inside if "reduce" in line]
    results = [line.partition(kind)[0] for line in outside if f" {kind}" in line]
    assert sum(result.count(shape) for result in results) == 1
