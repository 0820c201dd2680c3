"""Histograms of the loss against numpy on dense per-token statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import loss_problems, method_cases
from support.mesh_layouts import layout_of

from targetsft_jax import target
from targetsft_jax.loss import fused_loss
from targetsft_jax.loss.histogram import BINS, EDGES, histogram


def _expected(values, weights, edges):
    """numpy's histogram, with the outermost bins open."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
    return np.histogram(inside, edges, weights=weights)[0]


def test_counts_with_weights_and_open_ends():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for edges in EDGES.values():
            assert len(edges) == BINS + 1
            values = np.concatenate([rng.uniform(-3, 9, 500), edges])
            weights = rng.uniform(0, 2, values.size)
            counts = histogram(jnp.asarray(values), jnp.asarray(weights), edges)
            np.testing.assert_allclose(
                counts, _expected(values, weights, edges), rtol=1e-12
            )


def test_a_token_without_weight_is_not_counted():
    values = jnp.array([jnp.nan, jnp.inf, 0.52])
    counts = histogram(values, jnp.array([0.0, 0.0, 1.0]), EDGES["gamma"])
    np.testing.assert_array_equal(counts, np.eye(BINS)[10])


@pytest.mark.sweep(1)
@pytest.mark.parametrize("layout", [None, "fsdp groups"])
def test_the_loss_counts_its_tokens_on_one_device_and_on_many(layout):
    """p_y, γ and entropy of every token from dense logits, with their weights."""
    case = method_cases.Case("target_sft")
    with jax.enable_x64(True):
        hidden, head, labels, arguments = loss_problems.problem("float64", "holes", 3)
        logits = hidden @ head.T
        weights = arguments["weights"]
        states, rows = arguments["teacher"]
        teacher = states @ rows[: loss_problems.V].T
        safe = jnp.where(weights == 0, 0, labels)
        q = target("target_sft", logits, safe, teacher_logits=teacher, **case.hyper)
        log_p = jax.nn.log_softmax(logits)
        log_p_y = jnp.take_along_axis(log_p, safe[..., None], -1)[..., 0]
        statistics = {
            "gamma": q.gamma,
            "label_prob": jnp.exp(log_p_y),
            "entropy": -(jnp.exp(log_p) * log_p).sum(-1),
        }
        options = {"histograms": True, "chunk_size": 4, **arguments, **case.hyper}
        tensors = ("target_sft", hidden, head, labels)
        if layout is None:
            _, metrics = fused_loss(*tensors, **options)
        else:
            _, metrics = fused_loss(*tensors, **options, layout=layout_of(layout))
    for name, values in statistics.items():
        flat, token_weights = (np.asarray(x).ravel() for x in (values, weights))
        expected = _expected(flat, token_weights, EDGES[name])
        assert (expected > 0).sum() > 1, name
        np.testing.assert_allclose(
            metrics[f"histogram_{name}"], expected, rtol=1e-9, atol=1e-15
        )


def test_nan_is_in_no_bin():
    counts = histogram(jnp.array([jnp.nan, 0.0]), jnp.ones(2), np.linspace(0, 1, 21))
    np.testing.assert_array_equal(counts, np.arange(20) == 0)
