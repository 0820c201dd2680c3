"""The text part of multimodal checkpoints: its config.json and its tensors."""

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

Tensor = TypeVar("Tensor")

_TEXT_TYPES: Mapping[str, tuple[str, ...]] = {
    "gemma3": ("gemma3_text",),
    "mistral3": ("mistral", "ministral3"),
}
"""model_type of a multimodal config.json -> those of text parts; first the default."""

_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    }
}
"""Values of transformers for absent keys of a text part; published files omit some."""

# Names of modules, and those in files, which transformers 4 and 5 write.
_RENAMED = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def text_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of the text part; that of a text model is returned unchanged.

    A text part of another family than those of the multimodal model is returned, too:
    `family_lookup.family` refuses it by name.
    """
    kind = raw.get("model_type")
    text = raw.get("text_config")
    if not isinstance(kind, str) or kind not in _TEXT_TYPES:
        return raw
    if not isinstance(text, dict):
        # An old file of transformers with all sizes at their defaults has none.
        text = {}
    default = _TEXT_TYPES[kind][0]
    # In Gemma-3, files may have any name.
    name = default if kind == "gemma3" else text.get("model_type") or default
    defaults = _DEFAULTS.get(str(name), {})
    ids = {name: raw[name] for name in _TOKEN_IDS if name in raw}
    stored = {key: value for key, value in text.items() if value is not None}
    # transformers ties the head by the key outside of the text part.
    tied = raw.get("tie_word_embeddings")
    if tied is None and kind != "gemma3":
        tied = stored.get("tie_word_embeddings")
    if tied is None:
        tied = defaults.get("tie_word_embeddings", False)
    return {
        **text,
        **defaults,
        **stored,
        **ids,
        "model_type": name,
        "tie_word_embeddings": tied,
    }


def warn_of_other_parts(raw: Mapping[str, Any], where: str) -> None:
    """Warn that a config.json is read, and will be exported, without its other parts.

    Warns:
        UserWarning: the config.json is that of a multimodal model.
    """
    if text_config(raw) is not raw:
        name = text_config(raw)["model_type"]
        warnings.warn(
            f"{where}: model_type is {raw['model_type']!r}, a multimodal model; only "
            f"its text part is read, and exports are {name!r} without the others.",
            stacklevel=3,
        )


def text_tensors(model_type: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the text part by their names in a text model.

    Args:
        model_type: of the text model.
        tensors: all tensors of a checkpoint; those of a text model are returned
            unchanged.
    """
    marks = [old for old, _ in _RENAMED]
    is_multimodal = any(key.startswith(mark) for key in tensors for mark in marks)
    is_text_part = any(model_type in types for types in _TEXT_TYPES.values())
    if not is_text_part or not is_multimodal:
        return dict(tensors)
    return {
        _renamed(key): tensor
        for key, tensor in tensors.items()
        if not key.removeprefix("model.").startswith(_OTHER_PARTS)
    }


def _renamed(key: str) -> str:
    for old, new in _RENAMED:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
