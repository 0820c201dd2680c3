"""The model card of an export: what was taught, by which target, on what."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from targetsft_jax.targets.describe import explain

_LIBRARIES = (
    "targetsft-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tokenizers",
    "numpy",
)


def training_card(
    *,
    method: str,
    hyper: Mapping[str, Any],
    models: Mapping[str, str],
    data: Sequence[str],
    config: str,
) -> str:
    """The card of a trained model.

    Args:
        method: a name in METHODS.
        hyper: all its hyper-parameters.
        models: role -> path or hub id, "student" among them.
        data: facts about the training data, a line each.
        config: the run's configuration as YAML.

    Raises:
        ValueError: unknown method.
    """
    lines = [
        *_front_matter(models["student"]),
        f"# {models['student'].rstrip('/').rpartition('/')[2]}, taught by {method}",
        "",
        "Supervised fine-tuning with an explicit target distribution at each token:",
        "",
        "    Q = γ·δ_y + (1 − γ)·π̃",
        "",
        f"## Method: {method}",
        "",
        *explain(method, hyper),
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
    """The card of a model that was converted and not trained."""
    return "\n".join(
        [
            *_front_matter(source),
            f"# {source.rstrip('/').rpartition('/')[2]}",
            "",
            f"Converted from `{source}`; the weights are its own.",
            "",
            *_versions(),
            "",
        ]
    )


def _front_matter(base):
    """What the hub reads; a local path is no model of the hub's."""
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


def _versions():
    found = [("python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue  # targetsft-jax itself, run from a checkout
    versions = ", ".join(f"{name} {version}" for name, version in found)
    return ["## Software", "", versions]
