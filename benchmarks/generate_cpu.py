"""Generation against transformers' on the same tiny model, side by side, on a CPU.

    pip install "targetsft-jax[parity]"
    python benchmarks/generate_cpu.py [--rounds 5] [--clock cpu]

Greedy, float32, 16 prompts of one length, and 16 samples of one prompt, which share a
prefill with us and are 16 rows to transformers. Rounds alternate; medians are compared.
The tokens of both must be equal.
"""

import argparse
import statistics
import tempfile
import time

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from targetsft_jax.evaluation.generate import generate
from targetsft_jax.hf.importer import load_config, load_params

ROWS, PROMPT, NEW, V = 16, 64, 128, 4096


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    asked = parser.parse_args()
    clock = time.perf_counter if asked.clock == "wall" else time.process_time

    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=V,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" not in name:
                # Far from uniform, so that rounding does not choose a token.
                parameter.mul_(4)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config = load_config(folder)
        params = load_params(folder, config)

    prompts = np.random.default_rng(0).integers(0, V, (ROWS, PROMPT))
    print(f"Qwen2, D=256, 4 layers, V={V}, {PROMPT} + {NEW} tokens, float32, greedy")
    print(f"{'':<26}{'transformers':>14}{'ours':>10}{'times':>8}   tokens/s")
    for name, asked_prompts, samples in (
        (f"{ROWS} prompts", prompts, 1),
        (f"1 prompt, {ROWS} samples", prompts[:1], ROWS),
    ):
        runs = {
            "transformers": lambda p=asked_prompts, n=samples: _theirs(theirs, p, n),
            "ours": lambda p=asked_prompts, n=samples: _ours(config, params, p, n),
        }
        # The first call compiles.
        made = {who: run() for who, run in runs.items()}
        np.testing.assert_array_equal(made["ours"], made["transformers"])
        seconds: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(asked.rounds):
            for who, run in runs.items():
                began = clock()
                run()
                seconds[who].append(clock() - began)
        pace = {who: ROWS * NEW / statistics.median(t) for who, t in seconds.items()}
        ratio = pace["ours"] / pace["transformers"]
        print(
            f"{name:<26}{pace['transformers']:>14.0f}{pace['ours']:>10.0f}{ratio:>8.1f}"
        )


def _theirs(model, prompts, samples) -> np.ndarray:
    ids = torch.from_numpy(np.repeat(prompts, samples, axis=0))
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
    return out[:, PROMPT:].numpy()


def _ours(config, params, prompts, samples) -> np.ndarray:
    made = generate(
        config,
        params,
        prompts.tolist(),
        samples=samples,
        max_new_tokens=NEW,
        temperature=0,
        stop_ids=[],
        key=jax.random.key(0),
    )
    return np.array([one.tokens for prompt in made for one in prompt])


if __name__ == "__main__":
    main()
