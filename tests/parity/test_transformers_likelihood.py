"""Log-probabilities of continuations equal those of transformers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

from targetsft_jax.evaluation.likelihood import log_likelihoods  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", ["llama", "gemma2"])
def test_sums_equal_those_of_transformers(case, tmp_path):
    """Gemma-2 has a soft cap of the logits."""
    name = next(key for key in tiny.CASES if key.startswith(case))
    theirs = tiny.build(**tiny.CASES[name])
    theirs.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    params = load_params(tmp_path, config)
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 40, a).tolist(), rng.integers(0, 40, b).tolist())
        for a, b in ((3, 2), (7, 1), (5, 4))
    ]
    expected = []
    for context, continuation in pairs:
        with torch.no_grad():
            logits = theirs(torch.tensor([[*context, *continuation]])).logits[0]
        logprob = torch.log_softmax(logits.double(), -1)
        at = len(context) - 1 + np.arange(len(continuation))
        expected.append(float(logprob[at, continuation].sum()))
    np.testing.assert_allclose(
        log_likelihoods(config, params, pairs), expected, rtol=1e-4
    )
