"""A training step against other trainers, side by side in one run, on a CPU.

    python perf/step_peers.py [--rounds 3] [--steps 6] [--prompts 0 0.5]
        [--clock cpu]

Tiny Qwen2 models with a real vocabulary, float32, AdamW, global-norm clipping: every
trainer reads the same two checkpoints and the same rows, and runs its own loop. Each
peer is installed, once, in an environment of its own. Rounds alternate, so that a noisy
machine is noisy for all; medians are compared. The first step's loss shows that the
objective is the same.

    peer     package                objective
    tunix    google-tunix 0.1.7     KD-H: its trainer, LogitStrategy, T = 1, α = ½
    torch    transformers, torch    KD-H: the loop that one would write
    trl      trl 1.16, torch        DFT: SFTTrainer, loss_type="dft"

The memory of a loss is how much a fresh process grows while it takes the loss and both
gradients of hidden states and head, compiled before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import jax
import numpy as np

from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params

WORKERS = Path(__file__).parent / "peers"
PEERS = {
    "tunix": ["google-tunix==0.1.7"],
    "torch": ["trl==1.16.0", "torch==2.13.0"],
    "trl": ["trl==1.16.0", "torch==2.13.0"],
}
# What each is compared with: the same objective in ours.
OBJECTIVE = {"tunix": "kd_h", "torch": "kd_h", "trl": "dft"}

V, ROWS, LENGTH = 32_768, 8, 256
SIZES = {"student": (256, 4, 4), "teacher": (384, 6, 6)}  # width, layers, heads


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed ones of a round")
    parser.add_argument("--prompts", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: CPU seconds of the process, where other work shares the machine",
    )
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path("~/.cache/targetsft_jax/peers").expanduser(),
    )
    asked = parser.parse_args()
    pythons = {peer: _environment(asked.environments, peer) for peer in asked.peers}
    pythons["ours"] = Path(sys.executable)
    os.environ["BENCHMARK_CLOCK"] = asked.clock
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder)
        _write_models(problem)
        for share in asked.prompts:
            _write_rows(problem, share, asked.steps + 2)
            _compare(problem, pythons, asked, share)
        _compare_memory(problem, pythons, asked.peers)


def _compare(problem, pythons, asked, share) -> None:
    """Tokens a second of each peer, and of ours at the same objective."""
    runs = [(peer, OBJECTIVE[peer]) for peer in asked.peers]
    runs += [("ours", name) for name in sorted({OBJECTIVE[p] for p in asked.peers})]
    seconds: dict = {run: [] for run in runs}
    losses = {}
    for _ in range(asked.rounds):
        for run in runs:
            said = _work(pythons[run[0]], run, problem, "step")
            # The first step compiles, and a second one may be under way before it ends.
            seconds[run] += said["seconds"][2:]
            losses[run] = said["loss"]
    unit = "tokens/s" if asked.clock == "wall" else "/CPU s"
    print(f"\n{ROWS} rows of {LENGTH} tokens, {share:.0%} of them prompts, V = {V}")
    print(f"{'':<8}{'objective':<11}{'first loss':>12}{unit:>10}{'ours, times':>13}")
    for run in runs:
        pace = ROWS * LENGTH / statistics.median(seconds[run])
        own = ROWS * LENGTH / statistics.median(seconds["ours", run[1]])
        ratio = "" if run[0] == "ours" else f"{own / pace:.2f}"
        print(f"{run[0]:<8}{run[1]:<11}{losses[run]:>12.6f}{pace:>10.0f}{ratio:>13}")


def _compare_memory(problem, pythons, peers) -> None:
    print("\nmemory of the loss and its gradients")
    print(f"{'':<8}{'objective':<11}{'MiB':>8}{'ours, of it':>13}")
    ours = {
        name: _work(pythons["ours"], ("ours", name), problem, "loss")["mib"]
        for name in sorted({OBJECTIVE[p] for p in peers})
    }
    for peer in peers:
        name = OBJECTIVE[peer]
        held = _work(pythons[peer], (peer, name), problem, "loss")["mib"]
        print(f"{peer:<8}{name:<11}{held:>8.0f}{ours[name] / held:>13.2f}")
    for name, held in ours.items():
        print(f"{'ours':<8}{name:<11}{held:>8.0f}")


def _work(python: Path, run: tuple[str, str], problem: Path, what: str) -> dict:
    """One process of a worker; its last line is a JSON object."""
    peer, objective = run
    script = WORKERS / f"{peer}_worker.py"
    done = subprocess.run(
        [python, script, problem, what, objective],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        sys.exit(f"{script.name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _environment(folder: Path, peer: str) -> Path:
    """The Python of a peer's environment, which is made if it is not there."""
    packages = PEERS[peer]
    home = folder / "-".join(packages).replace("==", "_")
    python = home / "bin/python"
    if not (home / "complete").exists():
        print(f"installing {', '.join(packages)} in {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        (home / "complete").touch()
    return python


def _write_models(problem: Path) -> None:
    for seed, (name, (width, layers, heads)) in enumerate(SIZES.items()):
        config = DecoderConfig(
            vocab_size=V,
            hidden_size=width,
            intermediate_size=3 * width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=heads // 2,
            max_position_embeddings=2 * LENGTH,
            tie_word_embeddings=name == "student",
            model_type="qwen2",
        )
        params = init_params(config, jax.random.key(seed))
        # Larger than at initialisation: predictions that differ from the uniform.
        params = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params)
        save_pretrained(problem / name, config, params)


def _write_rows(problem: Path, prompts: float, steps: int) -> None:
    """[steps, B, L + 1] tokens, and which of the L predictions are trained.

    Every step has the same rows, whatever the order that a trainer takes them in.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (ROWS, LENGTH + 1), dtype=np.int32)
    tokens = np.broadcast_to(tokens, (steps, *tokens.shape))
    mask = np.ones((steps, ROWS, LENGTH), bool)
    mask[..., : round(prompts * LENGTH)] = False
    np.savez(problem / "rows.npz", tokens=tokens, mask=mask)


if __name__ == "__main__":
    main()
