"""Chunked label log-probabilities against log-softmax of dense logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import loss_problems
from support.mesh_layouts import layout_of
from support.quick import quicker

from targetsft_jax.loss import label_logprob

REAL = loss_problems.V - 3


def _dense(hidden, head, labels, mask, cap=None):
    """Log-probabilities in numpy: [B, L], 0 outside the mask."""
    logits = np.asarray(hidden) @ np.asarray(head)[:REAL].T
    logits = logits if cap is None else cap * np.tanh(logits / cap)
    top = logits.max(-1, keepdims=True)
    total = top[..., 0] + np.log(np.exp(logits - top).sum(-1))
    safe = np.where(mask, labels, 0)
    label_logits = np.take_along_axis(logits, safe[..., None], -1)[..., 0]
    return np.where(mask, label_logits - total, 0)


def _problem(mask):
    hidden, head, labels, arguments = loss_problems.problem("float64", mask)
    live = arguments["weights"] > 0
    # Labels in the vocabulary only: further rows of a head are padding.
    return hidden, head, jnp.minimum(labels, REAL - 1), live


@pytest.mark.parametrize("mask", loss_problems.MASKS)
@pytest.mark.parametrize("chunk, cap", [(7, None), (1000, 3.0)])
def test_equals_dense_logits(mask: str, chunk: int, cap: float | None):
    with jax.enable_x64(True):
        *tensors, live = _problem(mask)
        logprob = label_logprob(
            *tensors, mask=live, vocab_size=REAL, logit_cap=cap, chunk_size=chunk
        )
    np.testing.assert_allclose(logprob, _dense(*tensors, live, cap), rtol=1e-13, atol=0)


# Tokens gathered over one axis and over two, heads replicated and split.
@pytest.mark.parametrize(
    "layout",
    [
        "8 data",
        "8 tensor",
        "fsdp groups",
        "vocabulary on all axes",
        "replicated heads",
    ]
    + ["step (1, 8, 1, 1), groups of 4", "step (2, 2, 2, 1), groups of 2"],
)
def test_equals_one_device_on_every_mesh(layout: str):
    with jax.enable_x64(True):
        *tensors, live = _problem("holes")

        def run(*tensors):
            options = {"layout": layout_of(layout), "vocab_size": REAL, "chunk_size": 4}
            return label_logprob(*tensors, mask=live, **options)

        logprob = jax.jit(run, compiler_options=quicker())(*tensors)
    np.testing.assert_allclose(logprob, _dense(*tensors, live), rtol=1e-13, atol=0)


def test_no_array_of_tokens_by_vocabulary_and_nothing_to_differentiate():
    hidden, head, labels, arguments = loss_problems.problem("float32", "all")
    live = arguments["weights"] > 0

    def total(hidden, head):
        return jnp.sum(label_logprob(hidden, head, labels, mask=live, chunk_size=4))

    gradient = jax.grad(total, (0, 1))
    assert not any(np.any(g) for g in gradient(hidden, head))
    shapes = str(jax.make_jaxpr(gradient)(hidden, head))
    assert f"f32[4,{loss_problems.V}]" in shapes
    assert f"f32[{loss_problems.B * loss_problems.L},{loss_problems.V}]" not in shapes


def test_refused():
    hidden, head, labels, arguments = loss_problems.problem("float32")
    live = arguments["weights"] > 0

    def run(labels=labels, mask=live, **options):
        label_logprob(hidden, head, labels, mask=mask, **options)

    for pattern, changes in (
        ("vocab_size is 0", {"vocab_size": 0}),
        ("vocab_size is 54", {"vocab_size": 54}),
        ("chunk_size is 0", {"chunk_size": 0}),
        ("is nan; expected a positive", {"logit_cap": float("nan")}),
        ("float32; expected integers", {"labels": labels.astype(jnp.float32)}),
        ("outside the vocabulary", {"mask": np.ones_like(live)}),
        ("mask is 0.5 at", {"mask": np.where(live, 0.5, 0)}),
        (r"mask has \(6,\)", {"mask": live[0]}),
    ):
        with pytest.raises(ValueError, match=pattern):
            run(**changes)


def test_a_traced_label_outside_the_vocabulary_is_nan():
    hidden, head, labels, arguments = loss_problems.problem("float32", "holes")
    live = arguments["weights"] > 0
    run = jax.jit(lambda y: label_logprob(hidden, head, y, mask=live))
    logprob = run(labels.at[0, 0].set(2**20 if live[0, 0] else 0))
    assert np.isnan(logprob[0, 0]) == live[0, 0]
    assert np.isfinite(np.asarray(logprob)[1:]).all()
