"""Top-k tokens in chunks and on meshes, against dense logits."""

import jax
import numpy as np
import pytest
from support import loss_problems
from support.mesh_layouts import layout_of

from targetsft_jax.loss import top_k_tokens
from targetsft_jax.targets import top_k


@pytest.mark.parametrize("layout", [None, "all three", "fsdp groups", "8 tensor"])
@pytest.mark.parametrize("k", [1, 10, loss_problems.V])
def test_equals_the_top_of_dense_logits(k, layout):
    with jax.enable_x64(True):
        hidden, head, _, _ = loss_problems.problem("float64")
        mask = loss_problems.weights("holes") > 0
        dense = top_k(10 * np.tanh(hidden @ head.T / 10), k)
        found = jax.jit(
            lambda hidden, head: top_k_tokens(
                hidden,
                head,
                k,
                mask=mask,
                chunk_size=5,
                logit_cap=10.0,
                layout=None if layout is None else layout_of(layout),
            )
        )(hidden, head)
        for actual, expected in zip(
            jax.tree.leaves(found), jax.tree.leaves(dense), strict=True
        ):
            np.testing.assert_allclose(actual[mask], expected[mask], rtol=1e-12)
            assert not np.any(actual[~mask])


def test_padded_rows_of_the_head_are_not_tokens():
    hidden, head, _, _ = loss_problems.problem("float32")
    mask = np.ones(hidden.shape[:2], bool)
    found = top_k_tokens(hidden, head, 7, mask=mask, vocab_size=9, chunk_size=4)
    assert int(found.ids.max()) == 8
    dense = top_k(hidden @ head[:9].T, 7)
    np.testing.assert_allclose(found.log_probs, dense.log_probs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.log_rest, dense.log_rest, rtol=1e-4)


@pytest.mark.parametrize("k", [0, 54])
def test_refuses_a_k_outside_the_vocabulary(k):
    hidden, head, _, _ = loss_problems.problem("float32")
    with pytest.raises(ValueError, match="expected a whole number, 1 to 53"):
        top_k_tokens(hidden, head, k, mask=np.ones(hidden.shape[:2], bool))
