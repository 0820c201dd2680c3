"""Worker: TRL's SFTTrainer on the cases of the agreement table, with PEFT's adapters.

python agreement_trl.py PROBLEM    # cases as JSON on standard input
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement_cases import TRAIN
from datasets import Dataset
from peft import PeftModel
from recording import Recording, settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def train(problem: Path, case: dict[str, Any]) -> dict[str, list[float]]:
    """Loss and gradient norm of each step."""
    data = np.load(problem / "rows.npz")
    model: Any = AutoModelForCausalLM.from_pretrained(
        problem / case["student"], dtype=torch.float32
    )
    if case["adapter"]:
        model = PeftModel.from_pretrained(model, problem / "adapter", is_trainable=True)
    recording = Recording()
    steps, rows, _ = data["mask"].shape
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            SFTConfig(
                output_dir=folder,
                loss_type=case["objective"],
                max_length=None,
                shuffle_dataset=False,
                train_sampling_strategy="sequential",
                **settings(case, TRAIN, steps, rows),
            ),
            train_dataset=Dataset.from_list(list(_rows(data))),
            processing_class=AutoTokenizer.from_pretrained(problem / "student"),
        )
        recording.attach(trainer)
        trainer.train()
    return recording.result()


def _rows(data: Any) -> Any:
    """Rows without padding, in the order of the steps."""
    for tokens, mask, lengths in zip(data["tokens"], data["mask"], data["lengths"]):
        for row, trained, length in zip(tokens, mask, lengths):
            labels = np.where(trained, row[1:], -100)[: length - 1]
            yield {
                "input_ids": row[:length].tolist(),
                "labels": [-100, *labels.tolist()],
            }


def main() -> None:
    """Print the results of all cases as a JSON list in the last line."""
    cases = json.load(sys.stdin)
    print(json.dumps([train(Path(sys.argv[1]), case) for case in cases]))


if __name__ == "__main__":
    main()
