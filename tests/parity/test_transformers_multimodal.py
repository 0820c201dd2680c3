"""The text part of multimodal folders, by both names of its tensors."""

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
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.models.decoder import apply, head  # noqa: E402

pytestmark = pytest.mark.parity


VISION = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
)
# model_type -> class, config, tiny text model, model_type of the vision part, keys.
MODELS = {
    "gemma3": (
        *(Gemma3ForConditionalGeneration, Gemma3Config, "gemma3-left-over"),
        *("siglip_vision_model", dict(mm_tokens_per_image=4)),
    ),
    "mistral3": (
        *(Mistral3ForConditionalGeneration, Mistral3Config, "ministral3-tied"),
        *("pixtral", dict(spatial_merge_size=2)),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def multimodal(request, tmp_path_factory):
    """A tiny multimodal model, and its folder."""
    model_class, config_class, case, vision_type, keys = MODELS[request.param]
    text = tiny.build(**tiny.CASES[case]).config
    config = config_class(
        text_config=text.to_dict(),
        vision_config={"model_type": vision_type, **VISION},
        image_token_index=60,
        eos_token_id=[1, 7],
        **keys,
    )
    torch.manual_seed(1)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
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


NAMES = {"gemma3": "Gemma3", "mistral3": "Ministral3"}


def test_text_part(multimodal, tmp_path, record_property):
    theirs, folder = multimodal
    ids = tiny.tokens()[:, :30] % 50  # no token of an image
    expected = tiny.logits(theirs, ids)
    text_type, kind = theirs.config.text_config.model_type, theirs.config.model_type
    with pytest.warns(UserWarning, match=f"'{kind}', a multimodal.*only its text part"):
        config = load_config(folder)
    assert config.model_type == text_type and config.tie_word_embeddings
    params = load_params(folder, config)
    other = load_params(_by_modules(folder, tmp_path / "other"), config)
    jax.tree.map(np.testing.assert_array_equal, params, other)
    logits = jax.jit(lambda params: apply(config, params, ids) @ head(params).T)
    difference = np.abs(logits(params) - expected).max() / np.abs(expected).max()
    record_property("family", text_type)
    record_property("parity error", float(difference))
    assert np.abs(expected).max() > 1 and difference < 2e-5

    save_pretrained(tmp_path / "ours", config, params, like=folder)
    document = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert document["eos_token_id"] == [1, 7] and "vision_config" not in document
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(back).__name__ == f"{NAMES[kind]}ForCausalLM"
    assert not any(info.values()), info
    np.testing.assert_array_equal(tiny.logits(back, ids), expected)
    assert load_config(tmp_path / "ours") == config
