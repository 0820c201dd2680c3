"""Text of model cards: all parts, and the hub's metadata."""

import pytest

from targetsft_jax.hf.model_card import converted_card, training_card


def card(student="Qwen/Qwen2.5-0.5B"):
    return training_card(
        method="sft",
        explanation=["- γ = 1"],
        models={"student": student, "teacher": "/models/teacher"},
        data=["source  gsm8k", "rows    64"],
        config="train:\n  steps: 3\n",
    )


def test_a_card_has_method_models_data_and_configuration():
    lines = card().split("\n")
    assert "# Qwen2.5-0.5B, trained with sft" in lines
    assert lines[lines.index("## Method: sft") + 2] == "- γ = 1"
    assert "- student: `Qwen/Qwen2.5-0.5B`" in lines
    assert "- teacher: `/models/teacher`" in lines
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


@pytest.mark.parametrize("write", [card, converted_card])
@pytest.mark.parametrize(
    "source, is_hub_id",
    [
        ("Qwen/Qwen2.5-0.5B", True),
        ("/models/student", False),
        ("./student", False),
        ("~/student", False),
        ("a/b/c", False),
    ],
)
def test_only_a_hub_id_is_a_base_model(write, source, is_hub_id):
    text = write(source)
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert (f"\nbase_model: {source}\n" in text) is is_hub_id
