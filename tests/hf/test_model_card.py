"""Text of model cards: parts, results, and metadata as the hub's library reads it."""

import pytest
from huggingface_hub import ModelCard

from targetsft_jax.hf.model_card import (
    CardScore,
    adapter_card,
    converted_card,
    training_card,
    with_results,
)
from targetsft_jax.hf.origin import Origin

HUB = Origin(
    "Qwen2.5-0.5B",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-0.5B",
    {"license": "other", "license_name": "qwen", "license_link": "https://x.org/L"},
)
SCORE = CardScore("start", 41.25, 38.5, 44.0, 16, 1319)


def card(student=HUB):
    return training_card(
        method="sft",
        explanation=["- γ = 1"],
        models={"student": student, "teacher": Origin("teacher")},
        data=["source  gsm8k", "rows    64"],
        config="train:\n  steps: 3\n",
        datasets=["openai/gsm8k"],
    )


def test_a_card_has_method_models_data_and_configuration():
    lines = card().split("\n")
    assert "# Qwen2.5-0.5B, trained with sft" in lines
    assert lines[lines.index("## Method: sft") + 2] == "- γ = 1"
    link = "[Qwen/Qwen2.5-0.5B](https://huggingface.co/Qwen/Qwen2.5-0.5B)"
    assert f"- student: {link}" in lines
    assert "- teacher: `teacher`" in lines
    assert lines[lines.index("## Data") + 2 :][:4] == [
        "```",
        "source  gsm8k",
        "rows    64",
        "```",
    ]
    assert lines[lines.index("```yaml") :][:4] == [
        "```yaml",
        "train:",
        "  steps: 3",
        "```",
    ]
    assert any(line.startswith("python ") and "jax " in line for line in lines)


def test_the_hubs_library_reads_the_metadata():
    data = ModelCard(card()).data
    assert data.base_model == "Qwen/Qwen2.5-0.5B"
    assert data.get("base_model_relation") == "finetune"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert (data.license, data.license_name) == ("other", "qwen")
    assert data.license_link == "https://x.org/L"
    assert data.datasets == ["openai/gsm8k"]
    assert data.tags == ["targetsft-jax", "sft", "sft"][:2]


def test_a_model_without_a_known_base_names_none():
    for text in (card(Origin("student")), converted_card(Origin("student"))):
        data = ModelCard(text).data
        assert data.base_model is None and data.license is None
        assert "base_model" not in text


def test_the_card_of_adapters_loads_them_with_peft():
    text = with_results(card(), [SCORE], "Problems.")
    data, merged = ModelCard(adapter_card(text)).data, ModelCard(text).data
    assert (data.library_name, data.get("base_model_relation")) == ("peft", "adapter")
    assert data.tags == [*merged.tags, "lora"]
    body = adapter_card(text).split("## Method")
    assert "AutoPeftModelForCausalLM" in body[0] and "| start | 41.25 |" in body[0]
    assert body[1] == text.split("## Method")[1]
    assert adapter_card("# Any text\n") == "# Any text\n"


@pytest.mark.parametrize("render", [card, lambda: adapter_card(card())])
def test_the_snippets_are_python(render):
    (snippet,) = [
        part.removeprefix("python\n")
        for part in render().split("```")
        if part.startswith("python\n")
    ]
    compile(snippet, "snippet", "exec")


def test_results_are_replaced_and_follow_the_use():
    first = with_results(card(), [SCORE], "Held-out problems.")
    assert "| start | 41.25 | 38.50 to 44.00 | 16 | 1,319 |" in first
    assert first.index("## Use") < first.index("## Results") < first.index("## Method")
    again = with_results(first, [SCORE], "Held-out problems.")
    assert again == first
    other = CardScore("step 100", 50, 47, 53, 16, 1319)
    assert with_results(first, [other], "x").count("## Results") == 1
    assert with_results(card(), [], "x") == card()
    assert with_results("# Another\n", [SCORE], "x") == "# Another\n"
