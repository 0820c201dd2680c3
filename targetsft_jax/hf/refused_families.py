"""Families of transformers that the decoder cannot represent, and what it lacks."""

from collections.abc import Mapping

_LAYER_NORM = "norms that subtract the mean (LayerNorm)"
_NO_GATE = "an MLP without a gate"
_PARALLEL = "attention and MLP of the same input (parallel)"
_RECURRENT = "layers with a recurrent state in place of attention"
_CONVOLUTION = "layers with a convolution in place of attention"
_LATENT = "keys and values from a latent vector"
_SHARED = "an expert that all tokens share"
_SIGMOID = "a router of sigmoids"
_SINKS = "attention sinks"
_ALIBI = "positions as biases of the scores (ALiBi)"
_LEARNED = "learned positions"
_SECTIONS = "a part for images, and rotary sections"

MISSING: Mapping[str, str] = {
    "afmoe": f"{_SHARED}, {_SIGMOID}",
    "apertus": _NO_GATE,
    "arcee": _NO_GATE,
    "bamba": _RECURRENT,
    "bitnet": "norms within attention and MLP, weights of three values",
    "bloom": f"{_LAYER_NORM}, {_NO_GATE}, {_ALIBI}",
    "codegen": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "cohere": f"{_LAYER_NORM}, {_PARALLEL}",
    "cohere2": f"{_LAYER_NORM}, {_PARALLEL}",
    "dbrx": _LAYER_NORM,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "diffllama": "differences of two attentions",
    "dots1": f"{_SHARED}, {_SIGMOID}",
    "ernie4_5_moe": _SHARED,
    "exaone_moe": f"{_SHARED}, {_SIGMOID}",
    "falcon": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "falcon_h1": _RECURRENT,
    "falcon_mamba": _RECURRENT,
    "gemma3n": "embeddings of every layer",
    "gemma3n_text": "embeddings of every layer",
    "gemma4": "embeddings of every layer, heads of two sizes",
    "gemma4_text": "embeddings of every layer, heads of two sizes",
    "glm4_moe": f"{_SHARED}, {_SIGMOID}",
    "glm4_moe_lite": f"{_LATENT}, {_SHARED}",
    "gpt2": f"{_LAYER_NORM}, {_NO_GATE}, {_LEARNED}",
    "gpt_bigcode": f"{_LAYER_NORM}, {_NO_GATE}, {_LEARNED}",
    "gpt_neo": f"{_LAYER_NORM}, {_NO_GATE}, {_LEARNED}",
    "gpt_neox": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "gpt_oss": _SINKS,
    "gptj": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "granite_swa": _SINKS,
    "granitemoehybrid": _RECURRENT,
    "granitemoeshared": _SHARED,
    "jais2": f"{_LAYER_NORM}, {_NO_GATE}",
    "jamba": _RECURRENT,
    "kimi_linear": _RECURRENT,
    "lfm2": _CONVOLUTION,
    "lfm2_moe": _CONVOLUTION,
    "llama4": "a part for images, chunked attention",
    "llama4_text": f"chunked attention, {_SHARED}",
    "longcat_flash": _LATENT,
    "mamba": _RECURRENT,
    "mamba2": _RECURRENT,
    "mimo_v2_flash": f"{_SINKS}, {_SIGMOID}",
    "minicpm3": _LATENT,
    "minimax_m2": _SIGMOID,
    "mllama": "attention to images",
    "mpt": f"{_LAYER_NORM}, {_NO_GATE}, {_ALIBI}",
    "nanochat": f"{_NO_GATE}, norms without parameters",
    "nemotron": f"{_LAYER_NORM}, {_NO_GATE}",
    "nemotron_h": _RECURRENT,
    "olmo": f"{_LAYER_NORM}, without parameters",
    "olmo_hybrid": _RECURRENT,
    "opt": f"{_LAYER_NORM}, {_NO_GATE}, {_LEARNED}",
    "persimmon": f"{_LAYER_NORM}, {_NO_GATE}",
    "phi": f"{_LAYER_NORM}, {_NO_GATE}, {_PARALLEL}",
    "phimoe": _LAYER_NORM,
    "qwen2_5_vl": _SECTIONS,
    "qwen2_moe": _SHARED,
    "qwen2_vl": _SECTIONS,
    "qwen3_5": _RECURRENT,
    "qwen3_5_moe": _RECURRENT,
    "qwen3_5_text": _RECURRENT,
    "qwen3_next": _RECURRENT,
    "qwen3_vl": _SECTIONS,
    "recurrent_gemma": _RECURRENT,
    "rwkv": _RECURRENT,
    "solar_open": f"{_SHARED}, {_SIGMOID}",
    "stablelm": _LAYER_NORM,
    "starcoder2": f"{_LAYER_NORM}, {_NO_GATE}",
    "xlstm": _RECURRENT,
    "youtu": _LATENT,
    "zamba2": _RECURRENT,
}
"""model_type -> flag of the decoder that it would need."""
