"""transformers and torch: the distillation loop that one would write."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import SEED, WIDTHS, N, V, growth
from transformers import AutoModelForCausalLM


def _distillation(student, teacher, labels, mask):
    """½ NLL + ½ KL(teacher ‖ student), the mean over trained tokens."""
    log_p = F.log_softmax(student.float(), dim=-1)
    log_t = F.log_softmax(teacher.float(), dim=-1)
    kl = F.kl_div(log_p, log_t, log_target=True, reduction="none").sum(-1)
    nll = F.nll_loss(log_p.flatten(0, -2), labels.flatten(), reduction="none")
    return ((kl + nll.view_as(kl)) / 2 * mask).sum() / mask.sum()


def step(problem: Path) -> dict:
    """Seconds of each step, and the first loss."""
    given = np.load(problem / "rows.npz")
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
    for tokens, mask in zip(given["tokens"], given["mask"]):
        began = time.perf_counter()
        row = torch.from_numpy(tokens.astype(np.int64))
        ids, labels, trained = row[:, :-1], row[:, 1:], torch.from_numpy(mask).float()
        with torch.no_grad():
            other = teacher(ids).logits
        value = _distillation(student(ids).logits, other, labels, trained)
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
        seconds.append(time.perf_counter() - began)
    return {"loss": losses[0], "seconds": seconds}


def loss() -> dict:
    """MiB of the loss and both gradients."""
    torch.manual_seed(SEED)
    width, other = WIDTHS
    hidden, head = (torch.randn(n, width) / width**0.5 for n in (N, V))
    states, matrix = (torch.randn(n, other) / other**0.5 for n in (N, V))
    labels = torch.randint(V, (N,))
    hidden.requires_grad_()
    head.requires_grad_()

    def run():
        with torch.no_grad():
            teacher = states @ matrix.T
        _distillation(hidden @ head.T, teacher, labels, torch.ones(N)).backward()

    return {"mib": growth(run)}


if __name__ == "__main__":
    folder, what, _ = sys.argv[1:]
    print(json.dumps(step(Path(folder)) if what == "step" else loss()))
