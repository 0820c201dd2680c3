"""Maker of the golden files, which test parity without torch.

    python -m tests.support.golden_logits --update

Each tests/models/golden/<model_type>.npz holds a tiny model that transformers built
(config.json as text, every tensor by its Hugging Face key), token ids, and the float32
logits of transformers. It is the first case of the family in `tiny`, made smaller.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from targetsft_jax.hf.families import FAMILIES

from . import tiny

FOLDER = Path(__file__).resolve().parents[1] / "models" / "golden"
SMALL = dict(
    vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, seed=5
)
# Changes to first cases that would be too large, or insensitive at these sizes.
CHANGES = {
    "qwen3": dict(head_dim=6),
    "qwen3_moe": dict(head_dim=6, moe_intermediate_size=12),
    "mistral": dict(sliding_window=5),
    "ministral3": dict(head_dim=6),
    "olmoe": dict(intermediate_size=12),
    "internlm3": dict(head_dim=6),
    "iquestcoder": dict(head_dim=6),
    "cwm": dict(head_dim=6, sliding_window=5),
    "helium": dict(head_dim=4),
    "vaultgemma": dict(head_dim=6),
    "ministral": dict(
        head_dim=6, sliding_window=5, layer_types=[tiny.WINDOW, tiny.FULL]
    ),
    "olmo3": dict(num_hidden_layers=3, num_key_value_heads=2),
    "exaone4": dict(sliding_window=5),
    "seed_oss": dict(head_dim=6),
    "hunyuan_v1_dense": dict(head_dim=6),
    "gemma": dict(head_dim=6),
    "gemma2": dict(head_dim=6, num_hidden_layers=3),
    "gemma3_text": dict(
        num_hidden_layers=5, num_key_value_heads=2, final_logit_softcapping=None
    ),
    "phi3": dict(
        sliding_window=5,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_parameters=tiny.PARTIAL_ROPE,
    ),
}


def contents(model_type):
    """Contents of one golden file: name -> array."""
    case = tiny.CASES[tiny.first_case(model_type)]
    model = tiny.build(**{**case, **SMALL, **CHANGES.get(model_type, {})})
    ids = tiny.tokens(rows=2, length=24, vocab=48)
    with tempfile.TemporaryDirectory() as folder:
        # The names of checkpoints, which differ from those of modules for experts.
        model.save_pretrained(folder)
        stored = load_file(Path(folder) / "model.safetensors")
    tensors = {f"tensor:{key}": value for key, value in stored.items()}
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
    parser.add_argument("families", nargs="*", help="default: all")
    options = parser.parse_args()
    update = options.update
    for name in options.families or FAMILIES:
        path = FOLDER / f"{name}.npz"
        if update:
            np.savez_compressed(path, **contents(name))
        print(f"{path}: {path.stat().st_size} bytes")
