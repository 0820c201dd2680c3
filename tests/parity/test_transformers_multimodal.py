"""The text part of a multimodal Gemma-3 folder, by both names of its tensors."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from safetensors.torch import load_file, save_file  # noqa: E402
from support import tiny  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory):
    """A tiny multimodal model, and its folder."""
    text = tiny.build(**tiny.CASES["gemma3-left-over"]).config
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config={"model_type": "siglip_vision_model", **vision},
        mm_tokens_per_image=4,
        image_token_index=60,
        eos_token_id=[1, 7],
    )
    torch.manual_seed(1)
    config._attn_implementation = "eager"
    model = Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("gemma3")
    model.save_pretrained(folder)
    return model, folder


def _by_modules(folder, target):
    """The folder with the names of modules in place of those in published files."""
    target.mkdir()
    tensors = load_file(folder / "model.safetensors")
    assert any(key.startswith("language_model.model.") for key in tensors)
    assert any(key.startswith("vision_tower.") for key in tensors)
    renamed = {
        "model." + key.replace("language_model.model.", "language_model.", 1): value
        for key, value in tensors.items()
    }
    save_file(renamed, target / "model.safetensors")
    return target


def test_text_part(multimodal, tmp_path, record_property):
    theirs, folder = multimodal
    ids = tiny.tokens()[:, :30] % 50  # no token of an image
    expected = tiny.logits(theirs, ids)
    with pytest.warns(UserWarning, match="'gemma3', a multimodal.*only its text part"):
        config = load_config(folder)
    assert config.model_type == "gemma3_text" and config.tie_word_embeddings
    params = load_params(folder, config)
    other = load_params(_by_modules(folder, tmp_path / "other"), config)
    jax.tree.map(np.testing.assert_array_equal, params, other)
    logits = jax.jit(lambda params: apply(config, params, ids) @ head(params).T)
    difference = np.abs(logits(params) - expected).max() / np.abs(expected).max()
    record_property("family", "gemma3_text")
    record_property("parity error", float(difference))
    assert np.abs(expected).max() > 1 and difference < 2e-5

    save_pretrained(tmp_path / "ours", config, params, like=folder)
    document = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert document["eos_token_id"] == [1, 7] and "vision_config" not in document
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(back).__name__ == "Gemma3ForCausalLM" and not any(info.values()), info
    np.testing.assert_array_equal(tiny.logits(back, ids), expected)
    assert load_config(tmp_path / "ours") == config
