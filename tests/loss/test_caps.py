"""Soft caps of logits against the dense oracle, whose tanh jax differentiates."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from support import loss_problems
from support.quick import quicker

from targetsft_jax import METHODS, fused_loss
from targetsft_jax.loss import MeshLayout, reference_loss

# Logits of the problem are about 2: each cap changes most of them, and differently.
CAPS = {"student": 2.0, "teacher": 3.0, "reference": 1.5}
KINDS = ("sft", "eaft", "kl", "target_sft", "gem")


def _pulled(loss, hidden, head):
    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(run, compiler_options=quicker())(hidden, head)


def _fused(name, hidden, head, labels, arguments, caps, **options):
    def loss(hidden, head):
        tensors = {"chunk_size": 7, **options, **arguments}
        return fused_loss(name, hidden, head, labels, logit_caps=caps, **tensors)

    return _pulled(loss, hidden, head)


def _oracle(name, hidden, head, labels, arguments, caps):
    def loss(hidden, head):
        value = reference_loss(name, hidden, head, labels, logit_caps=caps, **arguments)
        return value, None

    return _pulled(loss, hidden, head)


def _wide(tree):
    def widen(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(np.asarray(x, np.float64) if floating else np.asarray(x))

    return jax.tree.map(widen, tree)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", [n for n in METHODS if n in KINDS])
def test_equals_the_oracle(name: str):
    """In float64; the teacher has three more rows, without probability."""
    with jax.enable_x64(True):
        *tensors, arguments = loss_problems.problem("float64", "holes", 3)
        short = loss_problems.cut(arguments, loss_problems.V)
        (expected, _), oracle = _oracle(name, *tensors, short, CAPS)
        (loss, _), gradients = _fused(name, *tensors, arguments, CAPS)
        (other, _), uncapped = _fused(name, *tensors, arguments, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for left, right, plain in zip(gradients, map(np.asarray, oracle), uncapped):
        scale = np.abs(right).max()
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13 * scale)
        assert np.abs(np.asarray(plain) - right).max() > 1e-2 * scale
    assert abs(float(other) - float(expected)) > 1e-2 * abs(float(expected))


@pytest.mark.parametrize("capped", CAPS)
def test_each_role_has_a_separate_cap(capped: str):
    name = "kl" if capped == "reference" else "target_sft"
    caps = {capped: CAPS[capped]}
    with jax.enable_x64(True):
        tensors = loss_problems.problem("float64", "holes")
        (expected, _), oracle = _oracle(name, *tensors, caps)
        (loss, metrics), gradients = _fused(name, *tensors, {"student": None, **caps})
        (_, plain), _ = _fused(name, *tensors, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for left, right in zip(gradients, oracle):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13)
    key = "kl_reference" if name == "kl" else "kl_teacher"
    assert abs(float(metrics[key]) - float(plain[key])) > 1e-2 * float(plain[key])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 1.2e-2)])
def test_narrow_dtypes(dtype: str, tolerance: float):
    """bfloat16 rounds g once before its products, and the gradients once after."""
    tensors = loss_problems.problem(dtype, "holes")
    (loss, _), gradients = _fused("target_sft", *tensors, CAPS)
    with jax.enable_x64(True):
        (expected, _), oracle = _oracle("target_sft", *_wide(tensors), CAPS)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for left, right in zip(gradients, oracle):
        assert left.dtype == dtype
        scale = np.abs(right).max()
        np.testing.assert_allclose(
            np.asarray(left, np.float64), right, rtol=0, atol=tolerance * scale
        )


def test_a_users_loss_gets_capped_logits():
    def squares(logits, labels, *, teacher_logits):
        return jnp.sum(jnp.square(logits - teacher_logits), axis=-1)

    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes")
        weights, other = arguments["weights"], arguments["teacher"]
        tensors = {"weights": weights, "teacher": other}
        (loss, _), gradients = _fused(squares, hidden, head, labels, tensors, CAPS)

        def dense(hidden, head):
            z, t = (
                cap * jnp.tanh(x @ w.T / cap)
                for x, w, cap in ((hidden, head, 2.0), (*other, 3.0))
            )
            return jnp.sum(weights * jnp.sum(jnp.square(z - t), axis=-1)), None

        (expected, _), oracle = _pulled(dense, hidden, head)
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for left, right in zip(gradients, oracle):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13)


def test_on_a_mesh():
    """The vocabulary over four devices, padded, and tokens over four."""
    mesh = jax.make_mesh(
        (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )
    places = ("data", "fsdp"), ("fsdp", "tensor"), ("fsdp", "tensor")
    with jax.enable_x64(True):
        tensors = loss_problems.problem("float64", "holes", 3)
        (expected, statistics), oracle = _fused("target_sft", *tensors, CAPS)
        layout = MeshLayout(mesh, *places)
        (loss, metrics), gradients = _fused("target_sft", *tensors, CAPS, layout=layout)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for key, value in statistics.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-12, atol=1e-15)
    for left, right in zip(gradients, oracle):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "caps",
    [{"old": 3.0}, {"student": 0.0}, {"teacher": -1.0}]
    + [{"student": cap} for cap in (np.nan, np.inf, 1e39, 1e-300, "3")],
)
def test_refused(caps):
    hidden, head, labels, arguments = loss_problems.problem("float32")
    ((role, cap),) = caps.items()
    with pytest.raises(
        ValueError, match=rf"'{role}'\] is {re.escape(str(cap))}; .*student, "
    ):
        fused_loss("sft", hidden, head, labels, logit_caps=caps, **arguments)
