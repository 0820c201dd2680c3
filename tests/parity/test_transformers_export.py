"""An export with its tokenizer, loaded by transformers alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from targetsft_jax.convert import main as convert  # noqa: E402
from targetsft_jax.data.tokenizer import byte_tokenizer  # noqa: E402
from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.models.config import DecoderConfig  # noqa: E402
from targetsft_jax.models.decoder import apply, head, init_params  # noqa: E402

pytestmark = pytest.mark.parity

CHATS = [
    [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What is 3 × 4?"},
    ],
    [
        {"role": "user", "content": "  1 + 1?\n"},
        {"role": "assistant", "content": "2 — été, 剂量"},
        {"role": "user", "content": "And e\u0301?"},
    ],
]


def test_model_and_tokenizer_of_one_folder(tmp_path):
    """Equal ids for a chat, then equal logits."""
    tokenizer = byte_tokenizer()
    config = DecoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        tie_word_embeddings=False,
        qkv_bias=False,
        model_type="llama",
    )
    params = jax.tree.map(
        lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf,  # logits far from 0
        init_params(config, jax.random.key(0)),
    )
    save_pretrained(tmp_path / "out", config, params, tokenizer=tokenizer)

    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for chat in CHATS:
        ids, want_ids = (
            t.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            for t in (tokenizer, theirs)
        )
        assert ids == want_ids and len(ids) > 20
        assert theirs.decode(ids) == tokenizer.decode(ids)
        row = np.asarray([ids], np.int32)
        ours = jax.jit(lambda p, r: apply(config, p, r) @ head(p).T)(params, row)
        expected = tiny.logits(model, row)
        assert np.abs(expected).max() > 1  # far above the bound below
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert model.config.eos_token_id == theirs.eos_token_id == 257
    assert model.generation_config.eos_token_id == 257
    assert model.generation_config.pad_token_id == theirs.pad_token_id == 256


def test_bfloat16_export_rounds_as_we_do(tmp_path):
    """Stored weights, read back as float32, have our bfloat16 logits."""
    config = DecoderConfig(
        264, 32, 48, 2, 4, 2, qkv_bias=False, model_type="llama", rope_theta=10_000.0
    )
    params = jax.tree.map(
        lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf,
        init_params(config, jax.random.key(1)),
    )
    tokenizer = byte_tokenizer()
    save_pretrained(
        tmp_path / "out", config, params, tokenizer=tokenizer, dtype="bfloat16"
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    row = np.asarray([tokenizer("12 × 12 = 144").input_ids], np.int32)
    rounded = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params
    )
    ours = jax.jit(lambda p: apply(config, p, row) @ head(p).T)(rounded)
    np.testing.assert_allclose(ours, tiny.logits(model, row), atol=1e-4)


def test_a_checkpoint_of_transformers_there_and_back(tmp_path):
    """A checkpoint of transformers returns as the same model with the same config."""
    theirs = tiny.build(**tiny.CASES["llama3-rope"])
    theirs.config.update({"note": "kept", "pretraining_tp": 1})
    theirs.generation_config.temperature = 0.7
    theirs.generation_config.do_sample = True
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    folders = [str(tmp_path / name) for name in ("theirs", "ours", "back")]
    assert convert(["from-hf", *folders[:2]]) == convert(["to-hf", *folders[1:]]) == 0
    back, info = AutoModelForCausalLM.from_pretrained(
        folders[2], output_loading_info=True
    )
    assert not any(info.values()), info
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
    ignored = {"_name_or_path", "transformers_version"}
    before, after = (m.config.to_dict() for m in (theirs, back))
    assert {k: after[k] for k in before if k not in ignored} == {
        k: v for k, v in before.items() if k not in ignored
    }
    assert back.generation_config.temperature == 0.7
