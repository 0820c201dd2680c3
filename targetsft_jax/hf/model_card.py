"""Text of a model card: method, models, data and configuration of a training."""

from collections.abc import Mapping, Sequence

from targetsft_jax.versions import MODEL, installed_versions


def training_card(
    *,
    method: str,
    explanation: Sequence[str],
    models: Mapping[str, str],
    data: Sequence[str],
    config: str,
) -> str:
    """Model card of a trained model.

    Args:
        method: name of the method.
        explanation: Markdown lines on the method and its hyper-parameters.
        models: role -> path or hub id, "student" among them.
        data: lines about the training data.
        config: the run's configuration as YAML.
    """
    lines = [
        *_front_matter(models["student"]),
        f"# {_base_name(models['student'])}, trained with {method}",
        "",
        "Supervised fine-tuning with an explicit target distribution at each token:",
        "",
        "    Q = γ·δ_y + (1 − γ)·π̃",
        "",
        f"## Method: {method}",
        "",
        *explanation,
        "",
        "## Models",
        "",
        *(f"- {role}: `{path}`" for role, path in models.items()),
        "",
        "## Data",
        "",
        "```",
        *data,
        "```",
        "",
        "## Configuration",
        "",
        "```yaml",
        *config.rstrip().split("\n"),
        "```",
        "",
        *_versions(),
    ]
    return "\n".join(lines) + "\n"


def converted_card(source: str) -> str:
    """Model card of a converted, untrained model."""
    return "\n".join(
        [
            *_front_matter(source),
            f"# {_base_name(source)}",
            "",
            f"Converted from `{source}`; the weights are unchanged.",
            "",
            *_versions(),
            "",
        ]
    )


def _base_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _front_matter(base: str) -> list[str]:
    """Metadata for the hub, with the base model unless it is a local path."""
    is_hub_id = base.count("/") == 1 and base[:1] not in "/.~"
    return [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *([f"base_model: {base}"] if is_hub_id else []),
        "tags: [targetsft-jax]",
        "---",
        "",
    ]


def _versions() -> list[str]:
    versions = installed_versions(MODEL).items()
    software = ", ".join(f"{name} {version}" for name, version in versions)
    return ["## Software", "", software]
