"""Gradients of the mean log-likelihood equal torch's, parameter by parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

from targetsft_jax import fused_loss  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402

pytestmark = pytest.mark.parity
CASES = [*tiny.ONE_EACH.values(), "gemma2-biases", "phi3-partial-rotary"]


def torch_gradients(model, ids, folder):
    """Write gradients as a checkpoint, from which they are read into our tree."""
    rows = torch.tensor(ids).long()
    logits = model(rows[:, :-1]).logits
    targets = rows[:, 1:].reshape(-1)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(leaf.grad)
    # By the names of checkpoints, which differ from those of modules for experts.
    model.save_pretrained(folder)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter(case, tmp_path, record_property):
    theirs = tiny.build(**tiny.CASES[case])
    theirs.save_pretrained(tmp_path / "model")
    ids = tiny.tokens()
    torch_gradients(theirs, ids, tmp_path / "gradients")
    config = load_config(tmp_path / "model")

    @jax.jit
    @jax.grad
    def ours(params):
        hidden = apply(config, params, jnp.asarray(ids[:, :-1]))
        labels = jnp.asarray(ids[:, 1:])
        loss, _ = fused_loss(
            "sft",
            hidden,
            head(params),
            labels,
            weights=jnp.full(labels.shape, 1 / labels.size),
            logit_caps={"student": config.final_logit_softcap},
        )
        return loss

    gradients = jax.tree_util.tree_leaves_with_path(
        ours(load_params(tmp_path / "model", config))
    )
    expected_gradients = jax.tree.leaves(load_params(tmp_path / "gradients", config))
    worst = 0.0
    for (path, actual), expected in zip(gradients, expected_gradients, strict=True):
        scale = np.abs(expected).max()
        assert scale > 1e-4, path  # far above the bound below
        worst = max(worst, float(np.abs(actual - expected).max() / scale))
    record_property("family", config.model_type)
    record_property("gradient error", float(worst))
    assert worst < 1e-4
