"""Families of transformers that the decoder cannot represent, and what it lacks."""

from collections.abc import Mapping

_LAYER_NORM = "norms that subtract the mean (LayerNorm)"
_NO_GATE = "an MLP without a gate"
_PARALLEL = "attention and MLP of the same input (parallel)"
_RECURRENT = "layers with a recurrent state in place of attention"
_CONVOLUTION = "layers with a convolution in place of attention"
_LATENT = "keys and values from a latent vector"
_SECTIONS = "a part for images, and rotary sections"

MISSING: Mapping[str, str] = {
    "apertus": _NO_GATE,
    "arcee": _NO_GATE,
    "bamba": _RECURRENT,
    "cohere": f"{_LAYER_NORM}, {_PARALLEL}",
    "cohere2": f"{_LAYER_NORM}, {_PARALLEL}",
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "falcon": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "falcon_h1": _RECURRENT,
    "gemma3n": "embeddings of every layer",
    "gemma4": "embeddings of every layer, heads of two sizes",
    "gpt2": f"{_LAYER_NORM}, {_NO_GATE}, learned positions",
    "gpt_neox": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "gpt_oss": "attention sinks",
    "granitemoehybrid": _RECURRENT,
    "lfm2": _CONVOLUTION,
    "minicpm3": _LATENT,
    "mistral3": "a part for images",
    "ministral3": "queries scaled by their position",
    "nemotron": f"{_LAYER_NORM}, {_NO_GATE}",
    "nemotron_h": _RECURRENT,
    "olmo": f"{_LAYER_NORM}, without parameters",
    "phi": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "qwen2_5_vl": _SECTIONS,
    "qwen3_5": _RECURRENT,
    "qwen3_next": _RECURRENT,
    "qwen3_vl": _SECTIONS,
    "stablelm": _LAYER_NORM,
    "starcoder2": f"{_LAYER_NORM}, {_NO_GATE}",
}
"""model_type -> flag of the decoder that it would need."""
