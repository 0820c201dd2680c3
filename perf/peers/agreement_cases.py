"""Cases of the agreement table: a method of ours beside a trainer of others."""

from dataclasses import asdict, dataclass
from typing import Any

STEPS, ROWS, LENGTH = 50, 8, 48
"""Optimizer steps, rows per step, longest row in tokens."""

TRAIN = {
    "learning_rate": 2e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
}
"""AdamW of all cases, at a constant rate."""

LORA = {"rank": 4, "alpha": 8.0, "targets": ("q", "k", "v", "o", "gate", "up", "down")}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        peer: trainer of others: trl, llamafactory, or in a plain loop torch, gem, psft.
        objective: name of the loss in the peer.
        target: the section `target` of ours.
        accumulation: micro-batches per optimizer step of both.
        student: folder of the start model.
        adapter: both train the exported adapter on the frozen student.
        vocab_size: logits that ours counts; None: the tokens of the tokenizer.
        refresh: steps between snapshots of the old policy.
        differs: the peer computes something else; the remark has the reason.
        remark: text for the last column.
    """

    peer: str
    objective: str
    target: dict[str, Any]
    accumulation: int = 1
    student: str = "student"
    adapter: bool = False
    vocab_size: int | None = None
    refresh: int = 8
    differs: bool = False
    remark: str = ""

    def row(self) -> dict[str, Any]:
        """JSON object for a worker."""
        return asdict(self)


SFT, DFT = {"name": "sft"}, {"name": "dft"}
ASFT = {"name": "asft", "kl_weight": 0.1}
EAFT = {"name": "eaft", "entropy_norm": 3.0}
TARGET = {"name": "target_sft", "eta": 0.5}

CASES = [
    Case("trl", "nll", SFT),
    Case("trl", "nll", SFT, accumulation=4),
    Case("trl", "dft", DFT),
    Case("trl", "dft", DFT, accumulation=4),
    Case("trl", "nll", SFT, adapter=True, remark="PEFT, from our exported adapter"),
    Case("trl", "dft", DFT, adapter=True, remark="PEFT, from our exported adapter"),
    Case("llamafactory", "dft", DFT),
    Case("llamafactory", "dft", DFT, accumulation=4),
    Case("llamafactory", "asft", ASFT, remark="λ = 0.1"),
    Case("llamafactory", "eaft", EAFT, remark="ours with `entropy_norm: 3`"),
    Case("torch", "target_sft", TARGET, remark="plain loop, η = 0.5"),
    Case("torch", "target_sft", TARGET, accumulation=4, remark="plain loop, η = 0.5"),
    Case("gem", "linear", {"name": "gem"}, remark="plain loop, `gem_loss`, β = 0.7"),
    Case(
        "gem",
        "logsigmoid",
        {"name": "gem", "variant": "logsigmoid"},
        remark="plain loop, `gem_loss`, β = 0.7",
    ),
    Case(
        "psft",
        "psft",
        {"name": "psft"},
        remark="plain loop, `compute_policy_loss` with advantages of 1, ε = 0.28, "
        "a snapshot every 8 steps",
    ),
    Case(
        "trl",
        "nll",
        SFT,
        student="padded",
        vocab_size=320,
        remark="320 rows of the embedding for 264 tokens, ours with all of them",
    ),
    Case(
        "trl",
        "nll",
        SFT,
        student="padded",
        differs=True,
        remark="the same, ours without the 56 padded rows",
    ),
    Case(
        "llamafactory",
        "asft",
        ASFT,
        accumulation=4,
        differs=True,
        remark="theirs is the undivided sum of the means of micro-batches",
    ),
    Case(
        "llamafactory",
        "eaft",
        {"name": "eaft"},
        differs=True,
        remark="ours with the published norm, ln 20 = 2.996",
    ),
    Case(
        "torch",
        "verl_sft",
        SFT,
        accumulation=4,
        differs=True,
        remark="verl's rule in a plain loop: gradients of the means of micro-batches "
        "are added, and their mean is printed",
    ),
]
