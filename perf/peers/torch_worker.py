"""Worker: a plain distillation loop with transformers and torch."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import SEED, WIDTHS, N, V, growth
from torch import Tensor
from transformers import AutoModelForCausalLM


def _distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor
) -> Tensor:
    """½ NLL + ½ KL(teacher ‖ student), mean over trained tokens."""
    log_p = F.log_softmax(student.float(), dim=-1)
    log_t = F.log_softmax(teacher.float(), dim=-1)
    kl = F.kl_div(log_p, log_t, log_target=True, reduction="none").sum(-1)
    nll = F.nll_loss(log_p.flatten(0, -2), labels.flatten(), reduction="none")
    return ((kl + nll.view_as(kl)) / 2 * mask).sum() / mask.sum()


def step(problem: Path) -> dict:
    """Seconds of each step, and the first loss."""
    rows = np.load(problem / "rows.npz")
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(problem / name, dtype=torch.float32)
        for name in ("student", "teacher")
    )
    student.train()
    teacher.eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01
    )
    losses, seconds = [], []
    for tokens, mask in zip(rows["tokens"], rows["mask"]):
        start = time.perf_counter()
        row = torch.from_numpy(tokens.astype(np.int64))
        ids, labels, trained = row[:, :-1], row[:, 1:], torch.from_numpy(mask).float()
        with torch.no_grad():
            teacher_logits = teacher(ids).logits
        logits = student(ids).logits
        value = _distillation(logits, teacher_logits, labels, trained)
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
        seconds.append(time.perf_counter() - start)
    return {"loss": losses[0], "seconds": seconds}


def loss() -> dict:
    """MiB of the loss and both gradients."""
    torch.manual_seed(SEED)
    width, teacher_width = WIDTHS
    hidden, head = (torch.randn(n, width) / width**0.5 for n in (N, V))
    states, matrix = (
        torch.randn(n, teacher_width) / teacher_width**0.5 for n in (N, V)
    )
    labels = torch.randint(V, (N,))
    hidden.requires_grad_()
    head.requires_grad_()

    def run() -> None:
        with torch.no_grad():
            teacher = states @ matrix.T
        _distillation(hidden @ head.T, teacher, labels, torch.ones(N)).backward()

    return {"mib": growth(run)}


if __name__ == "__main__":
    folder, measurement, _ = sys.argv[1:]
    print(json.dumps(step(Path(folder)) if measurement == "step" else loss()))
