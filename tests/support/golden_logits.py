"""Write the golden files that hold parity where torch is absent.

    python tests/support/golden_logits.py --update

Each tests/models/golden/<family>.npz holds a tiny model as transformers made it
(config.json as text, every tensor under its Hugging Face key), token ids, and the
float32 logits transformers computed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from transformers import (
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from . import tiny

FOLDER = Path(__file__).resolve().parents[1] / "models" / "golden"
SMALL = dict(
    vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, seed=5
)
FAMILIES = {
    "qwen2": dict(family=Qwen2Config, tie_word_embeddings=True, **SMALL),
    "llama": dict(
        family=LlamaConfig,
        rope_parameters=tiny.LLAMA3_ROPE,
        max_position_embeddings=512,
        **SMALL,
    ),
    "qwen3": dict(family=Qwen3Config, head_dim=6, **SMALL),
    "mistral": dict(family=MistralConfig, sliding_window=5, **SMALL),
    "gemma2": {**tiny.GEMMA2, **SMALL, "head_dim": 6, "num_hidden_layers": 3},
    "gemma3_text": {
        **tiny.GEMMA3,
        **SMALL,
        "sliding_window_pattern": 3,
        "num_hidden_layers": 5,
    },
    "phi3": dict(
        family=Phi3Config,
        sliding_window=5,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
        **SMALL,
    ),
}


def contents(family):
    """Everything one golden file holds: name -> array."""
    model = tiny.build(**FAMILIES[family])
    ids = tiny.tokens(rows=2, length=24, vocab=48)
    tensors = {
        f"tensor:{key}": value.numpy()
        for key, value in model.state_dict().items()
        if key != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    config = np.asarray(json.dumps(model.config.to_dict(), default=str))
    return {
        "config": config,
        "tokens": ids,
        "logits": tiny.logits(model, ids),
        **tensors,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the files")
    update = parser.parse_args().update
    for name in FAMILIES:
        path = FOLDER / f"{name}.npz"
        if update:
            np.savez_compressed(path, **contents(name))
        print(f"{path}: {path.stat().st_size} bytes")
