"""Routers and auxiliary loss of mixtures of experts equal those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply_routed  # noqa: E402
from targetsft_jax.models.experts import auxiliary_loss, busiest_share, mixed  # noqa: E402

pytestmark = pytest.mark.parity

LENGTHS = (9, 5)


@pytest.fixture(scope="module", params=["qwen3-moe", "mixtral"])
def routed(request, tmp_path_factory):
    """A model of transformers, its outputs on padded rows, and our parameters."""
    theirs = tiny.build(**tiny.CASES[request.param])
    folder = tmp_path_factory.mktemp("experts")
    theirs.save_pretrained(folder)
    config = load_config(folder)
    ids = tiny.tokens(length=max(LENGTHS))
    real = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    with torch.no_grad():
        outputs = theirs(
            torch.tensor(ids).long(),
            attention_mask=torch.tensor(real),
            labels=torch.tensor(ids).long(),
            output_router_logits=True,
        )
    return config, load_params(folder, config), ids, real, outputs


def test_the_auxiliary_loss_without_padding(routed):
    config, params, ids, real, outputs = routed
    _, routing = apply_routed(config, params, ids, segment_ids=real)
    np.testing.assert_allclose(auxiliary_loss(routing), outputs.aux_loss, rtol=1e-5)
    # With padding it is another value, so that the comparison can fail.
    _, unmasked = apply_routed(config, params, ids)
    assert abs(auxiliary_loss(unmasked) - float(outputs.aux_loss)) > 1e-3
    assert config.router_aux_loss_coef == 0.001


def test_router_probabilities_of_every_token(routed):
    config, params, ids, real, outputs = routed

    @jax.jit
    def one_token_real(row, column):
        # Attention sees the segments of `real`; the sums have one token alone.
        def mix(config, params, x, is_real):
            only = jnp.zeros_like(is_real).at[row, column].set(True)
            return mixed(config, params, x, only)

        return apply_routed(config, params, ids, segment_ids=real, mix=mix)[1]

    length = max(LENGTHS)
    for row, column in ((0, 0), (0, 8), (1, 4)):
        routing = one_token_real(row, column)
        for layer, logits in enumerate(outputs.router_logits):
            theirs = torch.softmax(logits[row * length + column], -1)
            np.testing.assert_allclose(
                routing.probability[layer], theirs, rtol=2e-4, atol=1e-6
            )
            chosen = torch.topk(theirs, 2).indices.tolist()
            assert set(np.flatnonzero(routing.load[layer])) == set(chosen)
    assert busiest_share(routing) == 4 / 2  # one token: two of four experts
