"""Second derivatives of the fused loss: an error at trace time, never 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.mesh_layouts import layout_of

from targetsft_jax import fused_loss
from targetsft_jax.loss.first_order import first_order

HIDDEN = jnp.linspace(-1, 1, 32).reshape(8, 4)
HEAD = jnp.linspace(-2, 1, 44).reshape(11, 4)
LABELS = np.arange(8)


def _loss(hidden, head, **options):
    arguments = {"weights": np.full(8, 1 / 8), **options}
    return fused_loss("dft", hidden, head, LABELS, **arguments)[0]


def _of_head(head):
    return _loss(HIDDEN, head)


def _square_norm(head):
    return jnp.sum(jax.grad(_of_head)(head) ** 2)


SECOND = {
    "hessian": lambda: jax.hessian(_of_head)(HEAD),
    "reverse over reverse": lambda: jax.jacrev(jax.grad(_of_head))(HEAD),
    "forward over reverse": lambda: jax.jvp(jax.grad(_of_head), (HEAD,), (HEAD,)),
    "of the other array": lambda: jax.jacfwd(
        lambda hidden: jax.grad(lambda head: _loss(hidden, head))(HEAD)
    )(HIDDEN),
    "of hidden states": lambda: jax.hessian(
        lambda hidden: _loss(hidden, HEAD, head_gradient=False)
    )(HIDDEN),
    "norm of the gradient": lambda: jax.grad(_square_norm)(HEAD),
    "under jit": lambda: jax.jit(jax.grad(jax.jit(_square_norm)))(HEAD),
    "under checkpoint": lambda: jax.grad(jax.checkpoint(_square_norm))(HEAD),
    "through checkpoint": lambda: jax.hessian(jax.checkpoint(_of_head))(HEAD),
    "under vmap": lambda: jax.vmap(jax.hessian(_of_head))(HEAD[None]),
    "through a step": lambda: jax.grad(
        lambda head: _of_head(head - jax.grad(_of_head)(head))
    )(HEAD),
    "through a scan": lambda: jax.grad(
        lambda head: jax.lax.scan(
            lambda x, _: (x - jax.grad(_of_head)(x), None), head, None, length=2
        )[0].sum()
    )(HEAD),
    "on a mesh": lambda: jax.hessian(
        lambda head: _loss(HIDDEN, head, layout=layout_of("8 tensor"))
    )(HEAD),
    "of a function": lambda: jax.hessian(
        lambda head: fused_loss(
            lambda logits, labels: jnp.sum(logits**2, -1),
            HIDDEN,
            head,
            LABELS,
            weights=np.ones(8),
        )[0]
    )(HEAD),
}


@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_a_second_derivative_is_an_error_with_a_remedy(second):
    with pytest.raises(NotImplementedError, match="fused_loss has first.*`objective`"):
        second()


def test_forward_mode_is_an_error():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(_of_head, (HEAD,), (HEAD,))


def test_derivatives_in_a_factor_of_the_loss_are_right():
    """The cotangent is differentiated, not the gradient: d/ds |s·g|² = 2·s·|g|²."""

    def square(scale):
        return jnp.sum(jax.grad(lambda head: scale * _of_head(head))(HEAD) ** 2)

    expected = 4 * _square_norm(HEAD)
    np.testing.assert_allclose(jax.grad(square)(2.0), expected, rtol=1e-6)


def test_the_guard_is_not_in_the_compiled_program():
    def plain(x):
        return jnp.sin(x)

    def guarded(x):
        return jnp.sin(first_order(x, "f", "differentiate g"))

    texts = [
        jax.jit(f).lower(1.0).compile().as_text().partition("ENTRY")[2].count(" = ")
        for f in (plain, guarded)
    ]
    assert texts[0] == texts[1]
    with pytest.raises(NotImplementedError, match="f has first.*; differentiate g"):
        jax.grad(guarded)(1.0)
