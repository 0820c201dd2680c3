"""Worker: LLaMA-Factory's trainer on the cases of the agreement table.

    python agreement_llamafactory.py PROBLEM    # cases as JSON on standard input

Its trainer class gets the rows as tokens, without its templates and data sets.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from agreement_cases import TRAIN
from datasets import Dataset
from recording import Recording, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, default_data_collator


def train(problem: Path, case: dict[str, Any]) -> dict[str, list[float]]:
    """Loss and gradient norm of each step."""
    # Its data package imports torchaudio, which none of these rows needs. Transformers
    # looks for it once, when it is imported, and must not see this empty module.
    sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))
    from llamafactory.hparams import FinetuningArguments, TrainingArguments
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    data = np.load(problem / "rows.npz")
    steps, rows, _ = data["mask"].shape
    objective = case["objective"]
    finetuning = FinetuningArguments(
        stage="sft",
        finetuning_type="full",
        disable_shuffling=True,
        asft_alpha=case["target"].get("kl_weight", 0.1),
        **{f"use_{objective}_loss": True},
    )
    reference = _load(problem, case).eval() if objective == "asft" else None
    recording = Recording()
    with tempfile.TemporaryDirectory() as folder:
        trainer = CustomSeq2SeqTrainer(
            finetuning_args=finetuning,
            processor=None,
            ref_model=reference,
            model=_load(problem, case),
            args=TrainingArguments(
                output_dir=folder, **settings(case, TRAIN, steps, rows)
            ),
            train_dataset=Dataset.from_list(list(_rows(data))),
            data_collator=default_data_collator,
            tokenizer=AutoTokenizer.from_pretrained(problem / "student"),
        )
        recording.attach(trainer)
        trainer.train()
    return recording.result()


def _load(problem: Path, case: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        problem / case["student"], dtype=torch.float32
    )


def _rows(data: Any) -> Any:
    """Rows padded on the right, in the order of the steps."""
    for tokens, mask, lengths in zip(data["tokens"], data["mask"], data["lengths"]):
        for row, trained, length in zip(tokens, mask, lengths):
            labels = np.where(trained, row[1:], -100)
            yield {
                "input_ids": row.tolist(),
                "attention_mask": (np.arange(len(row)) < length).astype(int).tolist(),
                "labels": [-100, *labels.tolist()],
            }


def main() -> None:
    """Print the results of all cases as a JSON list in the last line."""
    cases = json.load(sys.stdin)
    print(json.dumps([train(Path(sys.argv[1]), case) for case in cases]))


if __name__ == "__main__":
    main()
