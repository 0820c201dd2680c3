"""Model cards: metadata for the hub, use, results, method, data and configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from targetsft_jax.hf.origin import Origin
from targetsft_jax.storage import yaml_file
from targetsft_jax.versions import MODEL, installed_versions

_BEGIN, _END = "<!-- targetsft results -->", "<!-- end of results -->"
_USE = """## Use

```python
from transformers import pipeline

generate = pipeline("text-generation", model=".")  # this folder, or its id on the hub
messages = [{"role": "user", "content": "How many metres are 3 km?"}]
print(generate(messages, max_new_tokens=256)[0]["generated_text"][-1]["content"])
```
"""
_USE_ADAPTER = """## Use

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this folder, or its id on the hub
model = AutoPeftModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
messages = [{"role": "user", "content": "How many metres are 3 km?"}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
completion = model.generate(**prompt, max_new_tokens=256)
print(tokenizer.decode(completion[0], skip_special_tokens=True))
```
"""


@dataclass(frozen=True)
class CardScore:
    """Row of the results: a model's score on the held-out problems of its run.

    Attributes:
        model: name of the model, such as "start" or "step 1,000".
        value: Average@k in percent.
        low, high: 95 % confidence interval in percent.
        samples: k.
        problems: number of problems.
    """

    model: str
    value: float
    low: float
    high: float
    samples: int
    problems: int


def training_card(
    *,
    method: str,
    explanation: Sequence[str],
    models: Mapping[str, Origin],
    data: Sequence[str],
    config: str,
    datasets: Sequence[str] = (),
) -> str:
    """Model card of a trained model.

    Args:
        method: name of the method.
        explanation: Markdown lines on the method and its hyper-parameters.
        models: role -> origin, "student" among them.
        data: lines about the training data.
        config: the keys of the run's configuration that differ from the defaults, as
            YAML.
        datasets: ids of the training data on the hub.
    """
    student = models["student"]
    relation = {"base_model_relation": "finetune"} if student.base_model else {}
    metadata = {
        **_metadata(student),
        **relation,
        **({"datasets": list(datasets)} if datasets else {}),
        "tags": ["targetsft-jax", "sft", method],
    }
    lines = [
        *_front_matter(metadata),
        f"# {student.name}, trained with {method}",
        "",
        "Supervised fine-tuning with an explicit target distribution at each token:",
        "",
        "    Q = γ·δ_y + (1 − γ)·π̃",
        "",
        _USE,
        _BEGIN,
        _END,
        "",
        f"## Method: {method}",
        "",
        *explanation,
        "",
        "## Models",
        "",
        *(f"- {role}: {_shown(origin)}" for role, origin in models.items()),
        "",
        "## Data",
        "",
        "```",
        *data,
        "```",
        "",
        "## Configuration",
        "",
        "Keys that differ from the defaults; `config.yaml` of the run has all.",
        "",
        "```yaml",
        *config.rstrip().split("\n"),
        "```",
        "",
        *_versions(),
    ]
    return "\n".join(lines) + "\n"


def converted_card(origin: Origin) -> str:
    """Model card of a converted, untrained model."""
    return "\n".join(
        [
            *_front_matter({**_metadata(origin), "tags": ["targetsft-jax"]}),
            f"# {origin.name}",
            "",
            f"Converted from {_shown(origin)}; the weights are unchanged.",
            "",
            *_versions(),
            "",
        ]
    )


def adapter_card(card: str) -> str:
    """Card of the adapters alone, from that of the merged model.

    Args:
        card: result of `training_card`; a text without metadata is unchanged.
    """
    if not card.startswith("---\n") or card.count("---\n") < 2:
        return card
    _, head, body = card.split("---\n", 2)
    metadata = yaml_file.parse(head, "metadata of the model card")
    metadata |= {"library_name": "peft", "tags": [*metadata.get("tags", []), "lora"]}
    if "base_model" in metadata:
        metadata["base_model_relation"] = "adapter"
    body = body.replace(_USE, _USE_ADAPTER)
    return "\n".join(_front_matter(metadata)[:-1]) + "\n" + body


def with_step(card: str, step: int) -> str:
    """Card with the optimizer step of the weights, as its last line."""
    return f"{card}\nThese weights: optimizer step {step:,}.\n"


def with_results(card: str, scores: Sequence[CardScore], about: str) -> str:
    """Card with a section of results, in place of an earlier one.

    Args:
        card: result of `training_card` or `adapter_card`; another text is unchanged.
        scores: one per model, of the same problems.
        about: the problems and the sampling, in one line.
    """
    if not scores:
        return card
    rows = (
        f"| {each.model} | {each.value:.2f} | {each.low:.2f} to {each.high:.2f} | "
        f"{each.samples} | {each.problems:,} |"
        for each in scores
    )
    block = "\n".join(
        [
            _BEGIN,
            "## Results",
            "",
            about,
            "",
            "| model | Average@k | 95 % interval | k | problems |",
            "|---|--:|--:|--:|--:|",
            *rows,
            "",
            _END,
        ]
    )
    pattern = f"{_BEGIN}\n.*?{_END}"
    return re.sub(pattern, lambda _: block, card, count=1, flags=re.DOTALL)


def _metadata(origin: Origin) -> dict[str, Any]:
    base = {"base_model": origin.base_model} if origin.base_model else {}
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **base,
        **origin.licence,
    }


def _front_matter(metadata: Mapping[str, Any]) -> list[str]:
    return ["---", *yaml_file.dump(metadata).rstrip().split("\n"), "---", ""]


def _shown(origin: Origin) -> str:
    if origin.hub_id is None:
        return f"`{origin.name}`"
    return f"[{origin.hub_id}](https://huggingface.co/{origin.hub_id})"


def _versions() -> list[str]:
    versions = installed_versions(MODEL).items()
    software = ", ".join(f"{name} {version}" for name, version in versions)
    return ["## Software", "", software]
