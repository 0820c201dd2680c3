"""Texts on both sides of the original context of LongRoPE equal transformers."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

from targetsft_jax.generation.generate import generate  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402

pytestmark = pytest.mark.parity

# Texts of 17 tokens have the short factors, those of 18 the long ones.
LENGTHS = (17, 18, 5)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Transformers' model, and config and parameters from its folder."""
    folder = tmp_path_factory.mktemp("longrope")
    theirs = tiny.build(**tiny.CASES["phi3-longrope"])
    theirs.save_pretrained(folder)
    config = load_config(folder)
    return theirs, config, load_params(folder, config)


def test_texts_of_one_packed_row(both, record_property):
    theirs, config, params = both
    ids = tiny.tokens(rows=1, length=sum(LENGTHS))
    parts = np.split(ids, np.cumsum(LENGTHS)[:-1], axis=1)
    expected = np.concatenate([tiny.logits(theirs, part) for part in parts], axis=1)
    segments = np.repeat([[1, 2, 3]], LENGTHS, axis=1)

    @jax.jit
    def logits(params, positions):
        hidden = apply(
            config, params, ids, positions=positions, segment_ids=np.int32(segments)
        )
        return hidden @ head(params).T

    restarted = np.concatenate([np.arange(n) for n in LENGTHS])[None]
    for positions in (restarted, np.arange(ids.shape[1])[None]):
        actual = logits(params, np.int32(positions))
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        assert difference < 2e-5
    record_property("family", config.model_type)
    record_property("packed", float(difference))


def test_greedy_completions_on_one_side(both):
    """The last input of the first has 17 tokens; the second starts with 18."""
    theirs, config, params = both
    prompts = [tiny.tokens()[0, :10].tolist(), tiny.tokens()[1, :18].tolist()]
    settings = dict(temperature=0, stop_ids=[], key=jax.random.key(0))
    completions = generate(config, params, prompts, max_new_tokens=8, **settings)
    for prompt, (ours,) in zip(prompts, completions):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            expected = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=0,
            )
        assert ours.tokens == expected[0, len(prompt) :].tolist()
    with pytest.raises(ValueError, match="prompt 0 has 10 tokens.*at most 8 new"):
        generate(config, params, prompts, max_new_tokens=9, **settings)
