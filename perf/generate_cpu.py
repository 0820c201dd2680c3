"""Throughput of generation against transformers on the same tiny models, on a CPU.

    pip install "targetsft-jax[parity]"
    python perf/generate_cpu.py [--rounds 5] [--clock cpu]

Greedy decoding in float32. First one batch: 16 prompts of one length, and 16 samples of
one prompt, whose prefill `generate` computes once and transformers for each row. Then
an evaluation: 128 prompts of 16 to 64 tokens, whose completions end at a stop token
after 1 to 128 tokens, 16 rows at a time. Transformers gets them as its users pass them
on: sorted by length, in batches padded on the left. Rounds alternate; the fastest are
compared. The tokens of both must be equal.
"""

import argparse
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
from targetsft_jax.models.unstacked import Weights, decoding_weights

ROWS, PROMPT, NEW = 16, 64, 128
PROBLEMS, SHORTEST = 128, 16
# Width, layers, vocabulary: the models of the quickstart, and a larger one.
SIZES = ((256, 2, 264), (256, 4, 4096))

Completions = list[list[int]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    print(f"Qwen2, up to {PROMPT} + {NEW} tokens, float32, greedy; tokens/s")
    print(f"{'':<48}{'transformers':>14}{'ours':>8}{'ratio':>8}")
    for width, layers, vocabulary in SIZES:
        model = _model(width, layers, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = load_config(folder)
            params = load_params(folder, config)
        weights = decoding_weights(params, "float32")
        rng = np.random.default_rng(0)
        prompts = rng.integers(0, vocabulary, (PROBLEMS, PROMPT)).tolist()
        lengths = rng.integers(SHORTEST, PROMPT + 1, PROBLEMS)
        problems = sorted((p[:n] for p, n in zip(prompts, lengths)), key=len)
        # About one token in 50, so that completions have 50 tokens on average.
        stops = rng.choice(vocabulary, max(5, vocabulary // 50), replace=False).tolist()
        for name, batch, samples, stop_ids in (
            (f"{ROWS} prompts", prompts[:ROWS], 1, []),
            (f"1 prompt, {ROWS} samples", prompts[:1], ROWS, []),
            (f"{PROBLEMS} problems, {ROWS} rows", problems, 1, stops),
        ):
            arguments = (batch, samples, stop_ids)
            runs = {
                "transformers": partial(_transformers, model, *arguments),
                "ours": partial(_ours, config, weights, *arguments),
            }
            pace = _compare(runs, clock, options.rounds)
            print(
                f"{f'D={width}, {layers} layers, V={vocabulary}, {name}':<48}"
                f"{pace['transformers']:>14.0f}{pace['ours']:>8.0f}"
                f"{pace['ours'] / pace['transformers']:>8.1f}",
                flush=True,
            )


def _compare(
    runs: Mapping[str, Callable[[], Completions]],
    clock: Callable[[], float],
    rounds: int,
) -> dict[str, float]:
    """Return the tokens per second of each; raise if their tokens differ."""
    # The first call compiles.
    tokens = {name: run() for name, run in runs.items()}
    if tokens["ours"] != tokens["transformers"]:
        raise AssertionError("completions differ")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    count = sum(map(len, tokens["ours"]))
    return {name: count / min(t) for name, t in seconds.items()}


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


def _transformers(
    model: Any, prompts: Completions, samples: int, stop_ids: list[int]
) -> Completions:
    prompts = [prompt for prompt in prompts for _ in range(samples)]
    completions = []
    for first in range(0, len(prompts), ROWS):
        batch = prompts[first : first + ROWS]
        longest = max(map(len, batch))
        pads = [longest - len(prompt) for prompt in batch]
        ids = torch.tensor([[0] * pad + prompt for pad, prompt in zip(pads, batch)])
        real = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=real,
                max_new_tokens=NEW,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=stop_ids or None,
            )
        for row in out[:, longest:].tolist():
            ends = [n for n, token in enumerate(row) if token in stop_ids]
            completions.append(row[: ends[0]] if ends else row)
    return completions


def _ours(
    config: DecoderConfig,
    weights: Weights,
    prompts: Completions,
    samples: int,
    stop_ids: list[int],
) -> Completions:
    completions = generate(
        config,
        weights,
        prompts,
        samples=samples,
        max_new_tokens=NEW,
        temperature=0,
        stop_ids=stop_ids,
        key=jax.random.key(0),
        batch_size=ROWS // samples,
    )
    return [completion.tokens for prompt in completions for completion in prompt]


if __name__ == "__main__":
    main()
