"""Generation against transformers' on the same tiny model, side by side, on a CPU.

    pip install "targetsft-jax[parity]"
    python perf/generate_cpu.py [--rounds 5] [--clock cpu]

Greedy, float32, 16 prompts of one length, and 16 samples of one prompt, which share a
prefill with us and are 16 rows to transformers. Rounds alternate; medians are compared.
The tokens of both must be equal.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from targetsft_jax.generation.generate import generate
from targetsft_jax.hf.importer import load_config, load_params

ROWS, PROMPT, NEW = 16, 64, 128
# Width, layers, vocabulary: as the quickstart's models, and a larger one.
SIZES = ((256, 2, 264), (256, 4, 4096))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    asked = parser.parse_args()
    clock = time.perf_counter if asked.clock == "wall" else time.process_time

    print(f"Qwen2, {PROMPT} + {NEW} tokens, float32, greedy; tokens/s")
    print(f"{'':<38}{'transformers':>14}{'ours':>8}{'times':>8}")
    for width, layers, vocabulary in SIZES:
        theirs = _model(width, layers, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            config = load_config(folder)
            params = load_params(folder, config)
        prompts = np.random.default_rng(0).integers(0, vocabulary, (ROWS, PROMPT))
        for name, given, samples in (
            (f"{ROWS} prompts", prompts, 1),
            (f"1 prompt, {ROWS} samples", prompts[:1], ROWS),
        ):
            runs = {
                "transformers": partial(_theirs, theirs, given, samples),
                "ours": partial(_ours, config, params, given, samples),
            }
            pace = _compare(runs, clock, asked.rounds)
            print(
                f"{f'D={width}, {layers} layers, V={vocabulary}, {name}':<38}"
                f"{pace['transformers']:>14.0f}{pace['ours']:>8.0f}"
                f"{pace['ours'] / pace['transformers']:>8.1f}"
            )


def _compare(runs, clock, rounds) -> dict[str, float]:
    """Tokens a second of each, once both have given the same tokens."""
    # The first call compiles.
    made = {who: run() for who, run in runs.items()}
    np.testing.assert_array_equal(made["ours"], made["transformers"])
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            began = clock()
            run()
            seconds[who].append(clock() - began)
    return {who: ROWS * NEW / statistics.median(t) for who, t in seconds.items()}


def _model(width, layers, vocabulary):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                # Far from uniform, so that rounding does not choose a token.
                parameter.mul_(4)
    return model


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
