"""`tsft.load` against transformers on torch: greedy text, log-probabilities."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402

import targetsft_jax as tsft  # noqa: E402
from targetsft_jax.data.tokenizer import byte_tokenizer  # noqa: E402

pytestmark = pytest.mark.parity

CHAT = [
    {"role": "system", "content": "Short."},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "2 é"},
]


@pytest.fixture(scope="module", params=["llama-untied-mha", "gemma3-short-period"])
def both(request, tmp_path_factory):
    """Transformers' model, and ours from its folder."""
    folder = tmp_path_factory.mktemp("tiny")
    settings = {**tiny.CASES[request.param], "tie_word_embeddings": False}
    theirs = tiny.build(**settings, vocab_size=272, max_position_embeddings=512)
    theirs.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return theirs, tsft.load(folder)


@pytest.mark.parametrize("prompt", ["Once upon", CHAT[:2]])
def test_greedy_text(both, prompt):
    theirs, ours = both
    text = prompt
    if not isinstance(prompt, str):
        text = ours.tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
    ids = torch.tensor([ours.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        output = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=256,
            eos_token_id=list(ours.stop_ids),
            # Ids without a token are never sampled by us.
            suppress_tokens=list(range(264, 272)),
        )
    expected = ours.tokenizer.decode(
        output[0, ids.shape[1] :], skip_special_tokens=True
    )
    assert ours.generate(prompt, max_new_tokens=20, temperature=0) == expected
    pieces = ours.stream(prompt, max_new_tokens=20, temperature=0)
    assert "".join(pieces) == expected


def test_logprobs(both):
    theirs, ours = both
    encoded = ours.tokenizer.apply_chat_template(
        CHAT, return_assistant_tokens_mask=True, return_dict=True
    )
    ids, mask = (np.asarray(encoded[k]) for k in ("input_ids", "assistant_masks"))
    logits = torch.tensor(tiny.logits(theirs, ids[None])[0, :, :264])
    logprob = torch.log_softmax(logits.double(), -1).numpy()
    positions = np.flatnonzero(mask)
    scores = ours.logprobs(CHAT)
    np.testing.assert_array_equal(scores.ids, ids[positions])
    expected = logprob[positions - 1, ids[positions]]
    np.testing.assert_allclose(scores.logprob, expected, atol=1e-4)
