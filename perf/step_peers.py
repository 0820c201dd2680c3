"""Throughput and loss memory of a train step against other trainers, on a CPU.

    python perf/step_peers.py [--rounds 3] [--steps 6] [--prompts 0 0.5]
        [--clock cpu] [--shape smollm2]

Tiny Qwen2 models with a real vocabulary (`--shape small`), or the architecture of
SmolLM2-135M with random weights (`--shape smollm2`: SFT, against torch only, with the
memory of the steps), in float32 with AdamW and global-norm clipping. All read
the same two checkpoints and the same rows. Peers run their own training loops; this
package's train step runs in a plain one that fetches the metrics of every step. Each
peer is installed once in a separate environment. Rounds alternate between trainers, so
that other work on the machine slows all of them; medians are compared. Equal losses in
the first step show that the objectives are the same.

    peer     package                objective
    tunix    google-tunix 0.1.7     KD-H: its trainer, LogitStrategy, T = 1, α = ½
    torch    transformers, torch    KD-H: a plain training loop
    trl      trl 1.16, torch        DFT: SFTTrainer, loss_type="dft"

The memory of a loss is the growth of a new process during the loss with the gradients
of hidden states and head, after compilation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peers.environments import FOLDER, interpreter

from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params

WORKERS = Path(__file__).parent / "peers"
PEERS = {
    "tunix": ["google-tunix==0.1.7"],
    "torch": ["trl==1.16.0", "torch==2.13.0"],
    "trl": ["trl==1.16.0", "torch==2.13.0"],
}
# Objective of each peer, as a method of this package.
OBJECTIVE = {"tunix": "kd_h", "torch": "kd_h", "trl": "dft"}

# Objective in the shape "smollm2", which has no teacher.
WITHOUT_TEACHER = {"torch": "sft"}


@dataclass(frozen=True)
class Shape:
    """Models and rows of a comparison; `objectives` by peer."""

    models: Mapping[str, DecoderConfig]
    rows: int
    length: int
    objectives: Mapping[str, str]

    @property
    def vocabulary(self) -> int:
        """V of all models."""
        return self.models["student"].vocab_size


def _qwen2(width: int, layers: int, heads: int, tied: bool) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=32_768,
        hidden_size=width,
        intermediate_size=3 * width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        model_type="qwen2",
    )


SMOLLM2 = DecoderConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=1e5,
    qkv_bias=False,
    model_type="llama",
)

SHAPES = {
    "small": Shape(
        {"student": _qwen2(256, 4, 4, True), "teacher": _qwen2(384, 6, 6, False)},
        8,
        256,
        OBJECTIVE,
    ),
    "smollm2": Shape({"student": SMOLLM2}, 4, 512, WITHOUT_TEACHER),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps per round")
    parser.add_argument(
        "--prompts",
        type=float,
        nargs="+",
        default=[0.0, 0.5],
        help="shares of masked tokens",
    )
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: CPU seconds of the process, for a machine with other work",
    )
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS))
    parser.add_argument(
        "--environments",
        type=Path,
        default=FOLDER,
        help="folder of the peers' environments",
    )
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    options.peers = options.peers or list(shape.objectives)
    pythons = {
        peer: interpreter(options.environments, PEERS[peer]) for peer in options.peers
    }
    pythons["ours"] = Path(sys.executable)
    os.environ["PERF_CLOCK"] = options.clock
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder)
        _write_models(problem, shape)
        for share in options.prompts:
            _write_rows(problem, shape, share, options.steps + 2)
            _compare(problem, pythons, options, share)
        if options.shape == "small":
            _compare_memory(problem, pythons, options.peers)


def _compare(
    problem: Path,
    pythons: Mapping[str, Path],
    options: argparse.Namespace,
    share: float,
) -> None:
    """Print tokens per second of each peer, and of this package at its objective."""
    shape = SHAPES[options.shape]
    objectives = {peer: shape.objectives[peer] for peer in options.peers}
    runs = [*objectives.items()]
    runs += [("ours", name) for name in sorted(set(objectives.values()))]
    seconds: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    losses, memory = {}, {}
    for _ in range(options.rounds):
        for run in runs:
            result = _work(pythons[run[0]], run, problem, "step")
            # The first step compiles, and the second may be dispatched before it ends.
            seconds[run] += result["seconds"][2:]
            losses[run] = result["loss"]
            memory[run] = result.get("gib")
    unit = "tokens/s" if options.clock == "wall" else "/CPU s"
    print(
        f"\n{shape.rows} rows of {shape.length} tokens, {share:.0%} of them prompts, "
        f"V = {shape.vocabulary}"
    )
    print(
        f"{'':<8}{'objective':<11}{'first loss':>12}{unit:>10}{'ours, ratio':>13}"
        f"{'peak GiB':>10}"
    )
    for run in runs:
        tokens = shape.rows * shape.length
        pace = tokens / statistics.median(seconds[run])
        ours = tokens / statistics.median(seconds["ours", run[1]])
        ratio = "" if run[0] == "ours" else f"{ours / pace:.2f}"
        gib = "" if memory[run] is None else f"{memory[run]:.2f}"
        print(
            f"{run[0]:<8}{run[1]:<11}{losses[run]:>12.6f}{pace:>10.0f}{ratio:>13}"
            f"{gib:>10}"
        )


def _compare_memory(
    problem: Path, pythons: Mapping[str, Path], peers: Sequence[str]
) -> None:
    print("\nmemory of the loss with both gradients")
    print(f"{'':<8}{'objective':<11}{'MiB':>8}{'ours, ratio':>13}")
    ours = {
        name: _work(pythons["ours"], ("ours", name), problem, "loss")["mib"]
        for name in sorted({OBJECTIVE[p] for p in peers})
    }
    for peer in peers:
        name = OBJECTIVE[peer]
        mib = _work(pythons[peer], (peer, name), problem, "loss")["mib"]
        print(f"{peer:<8}{name:<11}{mib:>8.0f}{ours[name] / mib:>13.2f}")
    for name, mib in ours.items():
        print(f"{'ours':<8}{name:<11}{mib:>8.0f}")


def _work(
    python: Path, run: tuple[str, str], problem: Path, measurement: str
) -> dict[str, Any]:
    """Run a worker in a process and return the JSON object in its last line."""
    peer, objective = run
    script = WORKERS / f"{peer}_worker.py"
    process = subprocess.run(
        [python, script, problem, measurement, objective],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
    )
    if process.returncode:
        output = f"{process.stdout[-2000:]}{process.stderr[-4000:]}"
        sys.exit(f"{script.name} failed:\n{output}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def _write_models(problem: Path, shape: Shape) -> None:
    for seed, (name, config) in enumerate(shape.models.items()):
        params = init_params(config, jax.random.key(seed))
        # Three times the initial scale, so that predictions are not nearly uniform.
        params = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params)
        save_pretrained(problem / name, config, params)


def _write_rows(problem: Path, shape: Shape, prompts: float, steps: int) -> None:
    """Write tokens [steps, B, L + 1] and the loss mask [steps, B, L].

    Every step has the same rows, so that a trainer's data order does not matter.
    """
    rng = np.random.default_rng(0)
    size = (shape.rows, shape.length + 1)
    tokens = rng.integers(0, shape.vocabulary, size, dtype=np.int32)
    tokens = np.broadcast_to(tokens, (steps, *tokens.shape))
    mask = np.ones((steps, shape.rows, shape.length), bool)
    mask[..., : round(prompts * shape.length)] = False
    np.savez(problem / "rows.npz", tokens=tokens, mask=mask)


if __name__ == "__main__":
    main()
