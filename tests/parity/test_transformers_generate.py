"""Greedy completions equal transformers', token by token."""

import jax
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

from targetsft_jax.generation.generate import generate  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", tiny.ONE_EACH.values())
def test_greedy(case, tmp_path, record_property):
    """Prompts shorter and longer than the windows, padded to one length by us."""
    # With a tied head and scaled embeddings, a random model repeats its last token.
    theirs = tiny.build(**{**tiny.CASES[case], "tie_word_embeddings": False})
    theirs.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    record_property("family", config.model_type)
    prompts = [row[: 3 + 6 * n].tolist() for n, row in enumerate(tiny.tokens(rows=3))]
    completions = generate(
        config,
        load_params(tmp_path, config),
        prompts,
        max_new_tokens=12,
        temperature=0,
        stop_ids=[],
        key=jax.random.key(0),
    )
    for prompt, (ours,) in zip(prompts, completions):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            expected = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                pad_token_id=0,
            )
        assert ours.tokens == expected[0, len(prompt) :].tolist()
        assert len(set(ours.tokens)) > 2  # not one repeated token
    record_property("generate", True)
