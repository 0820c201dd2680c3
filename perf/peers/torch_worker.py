"""Worker: a plain distillation loop with transformers and torch."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import SEED, WIDTHS, N, V, growth, peak_gib, reset_peak
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


def _cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """NLL, mean over trained tokens."""
    chosen = torch.where(mask.bool(), labels, -100)
    return F.cross_entropy(logits.float().flatten(0, 1), chosen.flatten())


def step(problem: Path, objective: str) -> dict:
    """Seconds of each step, the first loss, and the peak memory of all steps."""
    rows = np.load(problem / "rows.npz")
    names = ("student", "teacher") if objective == "kd_h" else ("student",)
    student, *teachers = (
        AutoModelForCausalLM.from_pretrained(problem / name, dtype=torch.float32)
        for name in names
    )
    student.train()
    for teacher in teachers:
        teacher.eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.01
    )
    losses, seconds = [], []
    reset_peak()
    for tokens, mask in zip(rows["tokens"], rows["mask"]):
        start = time.perf_counter()
        row = torch.from_numpy(tokens.astype(np.int64))
        ids, labels, trained = row[:, :-1], row[:, 1:], torch.from_numpy(mask).float()
        with torch.no_grad():
            teacher_logits = [teacher(ids).logits for teacher in teachers]
        logits = student(ids).logits
        value = (
            _distillation(logits, *teacher_logits, labels, trained)
            if teachers
            else _cross_entropy(logits, labels, trained)
        )
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
        seconds.append(time.perf_counter() - start)
    return {"loss": losses[0], "seconds": seconds, "gib": peak_gib()}


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
    folder, measurement, objective = sys.argv[1:]
    is_step = measurement == "step"
    print(json.dumps(step(Path(folder), objective) if is_step else loss()))
