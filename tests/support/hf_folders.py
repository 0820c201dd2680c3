"""Checkpoint folders written by the safetensors library, not by our exporter."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}


def tensors(model_type="qwen2", tied=True, dtype=ml_dtypes.bfloat16):
    """Random tensors under Hugging Face names: key -> numpy array."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.normal(size=shape).astype(dtype)

    result = {
        "model.embed_tokens.weight": random(40, 16),
        "model.norm.weight": random(16),
    }
    if not tied:
        result["lm_head.weight"] = random(40, 16)
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, out, wide in (
            ("self_attn.q_proj", 16, 16),
            ("self_attn.k_proj", 8, 16),
            ("self_attn.v_proj", 8, 16),
            ("self_attn.o_proj", 16, 16),
            ("mlp.gate_proj", 24, 16),
            ("mlp.up_proj", 24, 16),
            ("mlp.down_proj", 16, 24),
        ):
            result[f"{prefix}{name}.weight"] = random(out, wide)
            if model_type == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                result[f"{prefix}{name}.bias"] = random(out)
        for name in ("input_layernorm", "post_attention_layernorm"):
            result[f"{prefix}{name}.weight"] = random(16)
    return result


def write(folder, content, model_type="qwen2", tied=True, shards=1):
    """Write a checkpoint folder, with an index for more than one shard."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": model_type, **SIZES, "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(content.items())[shard::shards])
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder):
    """Read every tensor of a folder with the safetensors library."""
    from safetensors.numpy import load_file

    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        result |= load_file(path)
    return result
