"""Throughput of generation against transformers on the same tiny models, on a CPU.

    pip install "targetsft-jax[parity]"
    python perf/generate_cpu.py [--rounds 5] [--clock cpu]

Greedy decoding in float32 of 16 prompts of one length, and of 16 samples of one prompt:
`generate` computes their prefill once, transformers for each row. Rounds alternate;
medians are compared. The tokens of both must be equal.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from targetsft_jax.generation.generate import generate
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models.config import DecoderConfig

ROWS, PROMPT, NEW = 16, 64, 128
# Width, layers, vocabulary: the models of the quickstart, and a larger one.
SIZES = ((256, 2, 264), (256, 4, 4096))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    print(f"Qwen2, {PROMPT} + {NEW} tokens, float32, greedy; tokens/s")
    print(f"{'':<38}{'transformers':>14}{'ours':>8}{'ratio':>8}")
    for width, layers, vocabulary in SIZES:
        model = _model(width, layers, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = load_config(folder)
            params = load_params(folder, config)
        prompts = np.random.default_rng(0).integers(0, vocabulary, (ROWS, PROMPT))
        for name, batch, samples in (
            (f"{ROWS} prompts", prompts, 1),
            (f"1 prompt, {ROWS} samples", prompts[:1], ROWS),
        ):
            runs = {
                "transformers": partial(_transformers, model, batch, samples),
                "ours": partial(_ours, config, params, batch, samples),
            }
            pace = _compare(runs, clock, options.rounds)
            print(
                f"{f'D={width}, {layers} layers, V={vocabulary}, {name}':<38}"
                f"{pace['transformers']:>14.0f}{pace['ours']:>8.0f}"
                f"{pace['ours'] / pace['transformers']:>8.1f}"
            )


def _compare(
    runs: Mapping[str, Callable[[], np.ndarray]],
    clock: Callable[[], float],
    rounds: int,
) -> dict[str, float]:
    """Return the tokens per second of each; raise if their tokens differ."""
    # The first call compiles.
    tokens = {name: run() for name, run in runs.items()}
    np.testing.assert_array_equal(tokens["ours"], tokens["transformers"])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: ROWS * NEW / statistics.median(t) for name, t in seconds.items()}


def _model(width: int, layers: int, vocabulary: int) -> Any:
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
                # Predictions far from uniform: rounding does not change a token.
                parameter.mul_(4)
    return model


def _transformers(model: Any, prompts: np.ndarray, samples: int) -> np.ndarray:
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


def _ours(
    config: DecoderConfig, params: dict, prompts: np.ndarray, samples: int
) -> np.ndarray:
    completions = generate(
        config,
        params,
        prompts.tolist(),
        samples=samples,
        max_new_tokens=NEW,
        temperature=0,
        stop_ids=[],
        key=jax.random.key(0),
    )
    return np.array(
        [completion.tokens for prompt in completions for completion in prompt]
    )


if __name__ == "__main__":
    main()
