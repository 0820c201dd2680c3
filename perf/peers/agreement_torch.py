"""Worker: a plain torch loop, with its own losses or with published ones.

    python agreement_torch.py PROBLEM    # cases as JSON on standard input

`gem` and `psft` take the published functions from source files in the folder, at run
time: only these functions, since their modules import packages of other tasks.
"""

import ast
import copy
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from agreement_cases import TRAIN
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

ETA = 0.5

Loss = Callable[[Mapping[str, Tensor]], Tensor]
"""Sum over the trained tokens of a micro-batch, from logits [N, V], labels [N], …"""


def target_sft(rows: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy to Q = p_y δ_y + (1 − p_y) u, u ∝ p^(1−η) π_T^η, without its
    gradient."""
    log_p = F.log_softmax(rows["logits"], dim=-1)
    with torch.no_grad():
        log_t = F.log_softmax(rows["teacher"], dim=-1)
        guided = F.softmax((1 - ETA) * log_p + ETA * log_t, dim=-1)
        label = F.one_hot(rows["labels"], log_p.shape[-1])
        prob = log_p.gather(-1, rows["labels"][:, None]).exp()
        target = prob * label + (1 - prob) * guided
    return -(target * log_p).sum()


def nll(rows: Mapping[str, Tensor]) -> Tensor:
    """Negative log-likelihood."""
    return F.cross_entropy(rows["logits"], rows["labels"], reduction="sum")


def published_gem(source: Path, variant: str) -> Loss:
    """`gem_loss` of GEM's trainer, which is a mean, as a sum."""
    function = published(source, "gem_loss", {"torch": torch, "F": F})

    def loss(rows: Mapping[str, Tensor]) -> Tensor:
        # It shifts labels by one.
        logits = F.pad(rows["logits"], (0, 0, 0, 1))[None]
        labels = F.pad(rows["labels"], (1, 0))[None]
        mean = function(None, logits, labels, beta=0.7, h=variant)
        return mean * len(rows["labels"])

    return loss


def published_psft(folder: Path) -> Loss:
    """`compute_policy_loss` of PSFT's verl with advantages of 1, as a sum."""
    helpers: dict[str, Any] = {"torch": torch}
    functional, algorithms = (
        folder / f"{name}.py" for name in ("torch_functional", "core_algos")
    )
    helpers["masked_sum"] = published(functional, "masked_sum", helpers)
    masked_mean = published(functional, "masked_mean", helpers)
    names = helpers | {"verl_F": SimpleNamespace(masked_mean=masked_mean)}
    names["agg_loss"] = published(algorithms, "agg_loss", names)
    function = published(algorithms, "compute_policy_loss", names)

    def loss(rows: Mapping[str, Tensor]) -> Tensor:
        ones = torch.ones(1, len(rows["labels"]))
        mean, *_ = function(
            _label_logprob(rows["old"], rows["labels"])[None],
            _label_logprob(rows["logits"], rows["labels"])[None],
            advantages=ones,
            response_mask=ones,
            cliprange_low=0.2,
            cliprange_high=0.28,
            clip_ratio_c=10.0,
        )
        return mean * len(rows["labels"])

    return loss


def published(source: Path, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """Function or method of a source file, without its decorators and its module.

    Args:
        source: Python file.
        name: the function's name.
        names: global names that it reads.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    function = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    function.decorator_list = []
    module = ast.Module([function], type_ignores=[])
    scope = dict(names)
    exec(compile(module, str(source), "exec"), scope)
    return scope[name]


def train(problem: Path, case: dict[str, Any]) -> dict[str, list[float]]:
    """Loss and gradient norm of each step."""
    data = np.load(problem / "rows.npz")
    student = _load(problem / case["student"])
    teacher = _load(problem / "teacher")
    loss = _loss(problem, case)
    decayed = [p for name, p in student.named_parameters() if _decays(name)]
    other = [p for name, p in student.named_parameters() if not _decays(name)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": other, "weight_decay": 0.0}],
        lr=TRAIN["learning_rate"],
        betas=(TRAIN["beta1"], TRAIN["beta2"]),
        weight_decay=TRAIN["weight_decay"],
    )
    result: dict[str, list[float]] = {"loss": [], "grad_norm": []}
    old = student
    for number in range(len(data["tokens"])):
        if case["peer"] == "psft" and number % case["refresh"] == 0:
            old = copy.deepcopy(student).requires_grad_(False)
        rows = {
            name: torch.from_numpy(np.array(data[name][number]))
            for name in ("tokens", "mask", "lengths")
        }
        parts = [x.chunk(case["accumulation"]) for x in rows.values()]
        total = 0.0
        for tokens, mask, lengths in zip(*parts):
            ids = tokens[:, :-1].long()
            models = {"logits": student, "teacher": teacher, "old": old}
            real = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            values = {
                name: model(ids, attention_mask=real).logits[mask]
                for name, model in models.items()
                if name in _needs(case)
            }
            values["labels"] = tokens[:, 1:].long()[mask]
            # verl divides the number that it prints, after the backward pass.
            verl = case["objective"] == "verl_sft"
            value = loss(values) / (mask if verl else rows["mask"]).sum()
            value.backward()
            total += value.item() / (case["accumulation"] if verl else 1)
        norm = nn.utils.clip_grad_norm_(student.parameters(), TRAIN["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        result["loss"].append(total)
        result["grad_norm"].append(norm.item())
    return result


def _loss(problem: Path, case: dict[str, Any]) -> Loss:
    if case["peer"] == "gem":
        return published_gem(problem / "sft_trainer.py", case["objective"])
    if case["peer"] == "psft":
        return published_psft(problem)
    return {"target_sft": target_sft, "verl_sft": nll}[case["objective"]]


def _needs(case: dict[str, Any]) -> tuple[str, ...]:
    second = {"target_sft": "teacher", "psft": "old"}.get(case["objective"])
    return ("logits",) if second is None else ("logits", second)


def _label_logprob(logits: Tensor, labels: Tensor) -> Tensor:
    return F.log_softmax(logits, dim=-1).gather(-1, labels[:, None])[:, 0]


def _load(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _decays(name: str) -> bool:
    return "norm" not in name and not name.endswith("bias")


def main() -> None:
    """Print the results of all cases as a JSON list in the last line."""
    cases = json.load(sys.stdin)
    print(json.dumps([train(Path(sys.argv[1]), case) for case in cases]))


if __name__ == "__main__":
    main()
