"""Worker: TRL's SFTTrainer with loss_type="dft"."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measure import SEED, WIDTHS, N, V, growth
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction


class Clock(TrainerCallback):
    """Callback that records the end time and the logged loss of each step."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
    ) -> None:
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))


def step(problem: Path) -> dict:
    """Seconds of each step, and the first loss."""
    data = np.load(problem / "rows.npz")
    steps, count, _ = data["mask"].shape
    model = AutoModelForCausalLM.from_pretrained(
        problem / "student", dtype=torch.float32
    )
    # The rows are token ids; the trainer requires a tokenizer nevertheless.
    plain = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<end>", pad_token="<end>"
    )
    labels = np.where(data["mask"], data["tokens"][..., 1:], -100)
    # All steps have the same rows: one epoch is one step.
    rows = {
        "input_ids": data["tokens"][0].tolist(),
        "labels": np.pad(labels[0], [(0, 0), (1, 0)], constant_values=-100).tolist(),
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            loss_type="dft",
            max_length=None,
            max_steps=steps,
            per_device_train_batch_size=count,
            learning_rate=1e-5,
            adam_beta2=0.95,
            weight_decay=0.01,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
        )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        clock.times = [time.perf_counter()]
        trainer.train()
    return {"loss": clock.losses[0], "seconds": np.diff(clock.times).tolist()}


def loss() -> dict:
    """MiB of the loss and both gradients."""
    torch.manual_seed(SEED)
    width = WIDTHS[0]
    hidden, head = (torch.randn(n, width) / width**0.5 for n in (N, V))
    labels = torch.randint(V, (N,))
    hidden.requires_grad_()
    head.requires_grad_()

    def run() -> None:
        # The call of the trainer's fused head.
        columns = _CHUNKED_LOGPROB_CHUNK_SIZE
        log_probs, *_ = _ChunkedLogProbFunction.apply(
            hidden, head, None, labels, 1.0, columns, None, 1.0, ()
        )
        (-log_probs * log_probs.exp().detach()).mean().backward()

    return {"mib": growth(run)}


if __name__ == "__main__":
    folder, measurement, _ = sys.argv[1:]
    print(json.dumps(step(Path(folder)) if measurement == "step" else loss()))
