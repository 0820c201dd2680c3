"""Resident memory of a training on a CPU by phase: steps, saves, export; Linux only.

    python perf/train_memory.py [--vocabulary 131072]

Trains a random Gemma-3 with a large vocabulary for three steps of two short rows, with
a save in between, and prints the peak of each phase, also in units of the parameters.
"""

import argparse
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.train import main as train
from targetsft_jax.training import fit, run
from targetsft_jax.training.saving import Saver

GIB = 2**30


def resident(name: str) -> float:
    """GiB of a line of /proc/self/status, such as VmHWM, the peak."""
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) / 2**20


def report(phase: str, unit: float) -> None:
    """Print the peak since the last report, and start a new one."""
    peak = resident("VmHWM")
    print(f"{phase:<22} peak {peak:5.2f} GiB, {peak / unit:4.1f} x parameters")
    Path("/proc/self/clear_refs").write_text("5")


def reported(function: Callable[..., Any], phase: str, unit: float) -> Any:
    """Function that reports the phase before it and its own."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        report(f"until {phase}", unit)
        result = function(*arguments, **options)
        report(phase, unit)
        return result

    return wrapped


def measure() -> int:
    """Train, and print the peaks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=131072)
    vocabulary = parser.parse_args().vocabulary
    flags = {**PLAIN, **FAMILIES["gemma3_text"].flags, "tie_word_embeddings": True}
    sizes = (vocabulary, 640, 1024, 4, 4, 1)
    config = DecoderConfig(*sizes, model_type="gemma3_text", head_dim=64, **flags)
    unit = 4 * decoder.num_parameters(config) / GIB
    with tempfile.TemporaryDirectory() as folder:
        params = decoder.init_params(config, jax.random.key(0))
        model = Path(folder, "model")
        save_pretrained(model, config, params, tokenizer=byte_tokenizer())
        del params
        fit.init_state = reported(fit.init_state, "start", unit)
        Saver.save = reported(Saver.save, "save", unit)  # type: ignore[method-assign]
        run.export = reported(run.export, "export", unit)
        keys = {
            "student.path": model,
            "target.name": "dft",
            "data.max_length": 64,
            "data.synthetic.examples": 64,
            "train.steps": 3,
            "train.batch_size": 2,
            "train.save_every": 2,
            "run_dir": Path(folder, "run"),
            "cache_dir": Path(folder, "cache"),
        }
        return train([text for k, x in keys.items() for text in (f"--{k}", str(x))])


if __name__ == "__main__":
    raise SystemExit(measure())
