"""The dense oracle against autodiff of the published losses."""

import jax
import numpy as np
import pytest
from support import loss_problems, method_cases

from targetsft_jax import METHODS, objective
from targetsft_jax.loss import reference_loss


@pytest.mark.parametrize("name", METHODS)
def test_value_and_gradient_are_those_of_the_published_loss(name: str):
    """The oracle differentiates CE(Q, p), the objective its published formula."""
    case = method_cases.Case(name)
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "all")
        weights = arguments["weights"]
        models = {
            f"{role}_logits": arguments[role][0] @ arguments[role][1].T
            for role in ("teacher", "reference")
        }
        columns = {
            key: value
            for key, value in arguments.items()
            if key not in ("weights", "teacher", "reference")
        }

        def published(hidden, head):
            logits = hidden @ head.T
            values = objective(name, logits, labels, **columns, **models, **case.hyper)
            return (weights * values).sum()

        def oracle(hidden, head):
            return reference_loss(name, hidden, head, labels, **arguments)

        expected, gradients = jax.value_and_grad(published, (0, 1))(hidden, head)
        value, oracles = jax.value_and_grad(oracle, (0, 1))(hidden, head)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    for left, right in zip(oracles, gradients):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-14)
