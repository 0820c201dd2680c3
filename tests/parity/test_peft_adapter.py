"""An exported adapter over its base, loaded by transformers and PEFT.

Three implementations of one function: PEFT over the base, transformers on the merged
export, and our forward pass with adapters.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live parity needs the `parity` extra")
peft = pytest.importorskip("peft", reason="live parity needs the `parity` extra")

from support import tiny  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from targetsft_jax.checkpoints.open import open_model  # noqa: E402
from targetsft_jax.hf.config_json import config_from_json  # noqa: E402
from targetsft_jax.hf.exporter import save_pretrained  # noqa: E402
from targetsft_jax.hf.importer import load_config, load_params  # noqa: E402
from targetsft_jax.hf.peft import save_adapter  # noqa: E402
from targetsft_jax.models import decoder, lora  # noqa: E402
from targetsft_jax.models.chunked_logits import logits_in_chunks  # noqa: E402
from targetsft_jax.models.layers import soft_cap  # noqa: E402
from targetsft_jax.parallel.mesh import make_mesh  # noqa: E402

pytestmark = pytest.mark.parity

ALL = ("q", "k", "v", "o", "gate", "up", "down")
_TARGETS = dict.fromkeys(("qwen3_moe", "mixtral", "olmoe"), ALL[:4])
CASES = {
    **{
        name: (case, lora.Lora(4, 10.0, _TARGETS.get(name, ALL)))
        # The adapters of EXAONE have other names than its checkpoints.
        for name, case in [
            *tiny.ONE_EACH.items(),
            ("exaone", tiny.first_case("exaone")),
        ]
    },
    "llama, attention": ("llama-narrow-head", lora.Lora(3, 2.5, ("q", "v"))),
    "phi3, some parts of a fused tensor": (
        "phi3-gqa",
        lora.Lora(8, 16.0, ("v", "up", "q")),
    ),
}
# Modules of PEFT for our targets, where they differ.
_FUSED_MLP = {"gate": "gate_up", "up": "gate_up"}
SHARED = {
    "phi3": {**dict.fromkeys("qkv", "qkv"), **_FUSED_MLP},
    "glm": _FUSED_MLP,
    "glm4": _FUSED_MLP,
}


def _trained(config, adapted):
    """Adapters as after training: B as large as A."""
    params = lora.init_adapters(config, adapted, jax.random.key(3))
    rng = np.random.default_rng(2)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jnp.asarray(rng.normal(size=x.shape) / 5, "float32")
            if path[-1].key == "lora_b"
            else x
        ),
        params,
    )


@pytest.fixture(params=CASES, scope="module")
def exported(request, tmp_path_factory):
    """Folders of base, merged model and adapter; our logits with and without it."""
    name, adapted = CASES[request.param]
    settings = tiny.CASES[name]
    base, merged, adapter = (
        tmp_path_factory.mktemp("peft") / name for name in ("base", "merged", "adapter")
    )
    tiny.build(**settings).save_pretrained(base)
    config = load_config(base)
    params = load_params(base, config)
    adapters = _trained(config, adapted)
    save_pretrained(merged, config, lora.merged(params, adapters, adapted))
    save_adapter(adapter, config, adapters, adapted, base=str(base))

    @jax.jit
    def logits(params):
        logits = decoder.apply(config, params, tiny.tokens()) @ decoder.head(params).T
        return soft_cap(logits, config.final_logit_softcap)

    # The same program, since its compilation dominates the time.
    no_adapters = jax.tree.map(jnp.zeros_like, adapters)
    return {
        "base": base,
        "merged": merged,
        "adapter": adapter,
        "ours": logits(lora.attach(params, adapters, adapted)),
        "start": logits(lora.attach(params, no_adapters, adapted)),
        "adapted": adapted,
    }


def _close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-4 * np.abs(right).max())


def test_peft_over_the_base_is_our_forward_pass(exported, record_property):
    base = AutoModelForCausalLM.from_pretrained(exported["base"])
    model = peft.PeftModel.from_pretrained(base, exported["adapter"]).eval()
    record_property("family", model.config.model_type)
    theirs = tiny.logits(model, tiny.tokens())
    _close(exported["ours"], theirs)
    far = np.abs(np.asarray(exported["ours"]) - theirs).max()
    record_property("LoRA", float(far / np.abs(theirs).max()))
    # The adapter changes the logits by far more than the bound.
    moved = np.abs(np.asarray(exported["ours"]) - np.asarray(exported["start"]))
    assert moved.max() > 0.05 * np.abs(theirs).max()
    # PEFT loaded all adapters of the file, and no others.
    state = peft.get_peft_model_state_dict(model)
    assert all(np.abs(value.numpy()).max() > 0 for value in state.values())
    targets = exported["adapted"].targets
    shared = SHARED.get(model.config.model_type, {})
    targets = {shared.get(name, name) for name in targets}
    assert len(state) == 2 * model.config.num_hidden_layers * len(targets)


def test_the_merged_export_is_the_same_model(exported):
    merged, info = AutoModelForCausalLM.from_pretrained(
        exported["merged"], output_loading_info=True
    )
    assert not any(info.values()), info
    _close(tiny.logits(merged.eval(), tiny.tokens()), exported["ours"])


@pytest.mark.parametrize("exported", ["llama", "phi3"], indirect=True)
def test_the_adapter_names_its_base(exported):
    model = peft.AutoPeftModelForCausalLM.from_pretrained(exported["adapter"]).eval()
    _close(tiny.logits(model, tiny.tokens()), exported["ours"])


def test_fresh_adapters_start_as_pefts_do():
    """A has the distribution of PEFT's initialization, and B is zero."""
    base = tiny.build(**tiny.CASES["qwen2-tied"])
    settings = peft.LoraConfig(r=64, target_modules=["q_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    state = peft.get_peft_model_state_dict(peft.get_peft_model(base, settings))
    theirs = torch.cat([v.flatten() for k, v in state.items() if "lora_A" in k]).numpy()
    assert not any(v.any() for k, v in state.items() if "lora_B" in k)
    config = config_from_json(base.config.to_dict(), "the base")
    params = lora.init_adapters(config, lora.Lora(32, 1.0, ("q",)), jax.random.key(0))
    pair = params["layers"]["attention"]["q"]
    assert not np.any(pair["lora_b"])
    # Uniform in ±1/√in: the same extremes and spread.
    bound = config.hidden_size**-0.5
    for values in (np.ravel(pair["lora_a"]), theirs):
        assert 0.99 * bound < np.abs(values).max() <= bound
        np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.03)
        assert abs(values.mean()) < 0.03 * bound


PEFT_SETTINGS = {
    "llama, patterns": (
        "llama-narrow-head",
        dict(
            r=4,
            lora_alpha=7,
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"v_proj": 2},
            alpha_pattern={"layers.1.self_attn.q_proj": 3},
        ),
    ),
    "gemma2, rank-stabilised, some layers": (
        tiny.first_case("gemma2"),
        dict(
            r=4,
            lora_alpha=5,
            use_rslora=True,
            target_modules=["k_proj", "o_proj", "gate_proj"],
            layers_to_transform=[0, 2],
        ),
    ),
    "phi3, fused": (
        "phi3-gqa",
        dict(r=3, lora_alpha=6, target_modules=["qkv_proj", "gate_up_proj"]),
    ),
    "qwen2, all linear": (
        "qwen2-tied",
        dict(r=2, lora_alpha=4, target_modules="all-linear"),
    ),
}


@pytest.mark.parametrize("case", PEFT_SETTINGS)
def test_an_adapter_that_peft_wrote_is_opened(case, tmp_path, record_property):
    name, settings = PEFT_SETTINGS[case]
    base = tiny.build(**tiny.CASES[name])
    record_property("family", base.config.model_type)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", **settings)
    ).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.copy_(torch.randn_like(value) / 5)
    model.save_pretrained(tmp_path / "adapter")
    stored = open_model(tmp_path / "adapter")
    params = stored.load(make_mesh(devices=jax.devices()[:1]), "float32")
    [*chunks] = logits_in_chunks(stored.config, params, tiny.tokens()[0])
    theirs = tiny.logits(model, tiny.tokens()[:1])[0]
    _close(np.concatenate(chunks), theirs)
    with model.disable_adapter():
        plain = tiny.logits(model, tiny.tokens()[:1])[0]
    assert np.abs(plain - theirs).max() > 0.05 * np.abs(theirs).max()
