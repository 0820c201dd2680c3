"""Products of activations and weights: the flat one against autodiff, its choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import products


def _arrays():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5, 6), (6, 3))]


def _loss(multiply):
    return lambda x, kernel: jnp.sum(jnp.sin(multiply(x, kernel)))


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_value_and_gradients_equal_those_of_autodiff(argnums):
    with jax.enable_x64(True):
        x, kernel = _arrays()
        actual = jax.value_and_grad(_loss(products.flat_product), argnums)(x, kernel)
        expected = jax.value_and_grad(_loss(jnp.matmul), argnums)(x, kernel)
        for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
            np.testing.assert_allclose(left, right, rtol=1e-12)


def test_an_unused_product_has_a_gradient_of_zero():
    x, kernel = _arrays()

    def loss(x, kernel):
        products.flat_product(x, kernel)
        return jnp.sum(x)

    np.testing.assert_array_equal(jax.grad(loss, 1)(x, kernel), 0)


def test_a_frozen_kernel_saves_no_activations():
    """As in LoRA: only the kernel is needed for the gradient of its input."""
    x, kernel = _arrays()
    _, pull = jax.vjp(lambda x: products.flat_product(x, kernel), x)
    shapes = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert kernel.shape in shapes and x.shape not in shapes
    _, pull = jax.vjp(products.flat_product, x, kernel)
    assert x.shape in [leaf.shape for leaf in jax.tree.leaves(pull)]


def test_products_are_flat_on_a_single_cpu_device_only():
    assert products.multiply_on("cpu") is products.flat_product
    assert products.multiply_on("cpu", devices=2) is jnp.matmul
    assert {products.multiply_on(name) for name in ("tpu", "gpu")} == {jnp.matmul}
