"""Worker: this package's train step on the cases of the agreement table.

python agreement_ours.py PROBLEM    # cases as JSON on standard input
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from agreement_cases import LORA, TRAIN

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import PolicyConfig, TrainConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.training.micro_batch import BASE, Numerics, StepSpec
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.step import make_train_step

ADAPTERS = Lora(**LORA)


def train(
    problem: Path, case: dict[str, Any], *, learning_rate: float | None = None
) -> tuple[dict[str, list[float]], Any]:
    """Train on the rows of the problem; loss and gradient norm per step, and weights.

    Args:
        problem: folder with models and rows.
        case: a `Case` as a JSON object.
        learning_rate: instead of that of all cases.
    """
    mesh = make_mesh(devices=jax.devices()[:1])
    student = open_model(problem / case["student"])
    psft = case["target"]["name"] == "psft"
    policy = PolicyConfig(refresh_every=case["refresh"]) if psft else PolicyConfig()
    method = resolve(case["target"], policy)
    # The reference is the student before training.
    folders = {"teacher": problem / "teacher", "reference": problem / case["student"]}
    frozen = {role: open_model(folders[role]) for role in method.roles}
    lora = ADAPTERS if case["adapter"] else None
    spec = StepSpec(
        student=student.config,
        frozen={role: model.config for role, model in frozen.items()},
        method=method,
        vocab_size=case["vocab_size"] or len(student.tokenizer()),
        numerics=Numerics(),
        lora=lora,
    )
    settings = dict(TRAIN) | {"warmup_ratio": 0.0, "final_learning_rate_ratio": 1.0}
    if learning_rate is not None:
        settings["learning_rate"] = learning_rate
    data = np.load(problem / "rows.npz")
    optimizer = make_optimizer(TrainConfig(**settings), len(data["tokens"]))
    params = student.load(mesh, "float32")
    frozen_params = {role: m.load(mesh, "float32") for role, m in frozen.items()}
    trained = params
    if lora is not None:
        frozen_params[BASE] = params
        trained = unflat(dict(np.load(problem / "adapters.npz")))
    shardings = state_shardings(
        spec.student, trained, optimizer, mesh, lora, method.policy
    )
    state = init_state(trained, optimizer, shardings, method.policy)
    step = make_train_step(spec, optimizer, mesh, shardings)
    result: dict[str, list[float]] = {"loss": [], "grad_norm": []}
    for number in range(len(data["tokens"])):
        batch = _batch(data, number, case["accumulation"])
        state, metrics = step(state, frozen_params, put_rows(batch, mesh, lead=1))
        values = jax.device_get(metrics)
        for name, series in result.items():
            series.append(float(values[name]))
    return result, state.params


def flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by their path, "a/b/c", of a nested dict."""
    leaves: dict[str, np.ndarray] = {}
    for name, part in tree.items():
        path = f"{prefix}{name}"
        if isinstance(part, dict):
            leaves |= flat(part, f"{path}/")
        else:
            leaves[path] = np.asarray(part)
    return leaves


def unflat(leaves: dict[str, np.ndarray]) -> dict:
    """Nested dict; inverse of `flat`."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = leaf
    return tree


def _batch(data: Any, number: int, accumulation: int) -> dict[str, np.ndarray]:
    """Batch [A, B / A, L] of one step; padding is segment 0."""
    tokens, mask = data["tokens"][number], data["mask"][number]
    length = mask.shape[1]
    real = np.arange(length) < data["lengths"][number][:, None]
    batch = {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "loss_mask": mask,
        "segment_ids": real.astype(np.int32),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), mask.shape),
    }
    return {
        name: value.reshape(accumulation, -1, length) for name, value in batch.items()
    }


def main() -> None:
    """Print the results of all cases as a JSON list in the last line."""
    problem, cases = Path(sys.argv[1]), json.load(sys.stdin)
    results: dict[str, dict] = {}
    for case in cases:
        # Several peers have the same case of ours.
        keys = ("target", "accumulation", "student", "adapter", "vocab_size")
        key = json.dumps([case[name] for name in keys])
        if key not in results:
            results[key] = train(problem, case)[0]
        case["result"] = results[key]
    print(json.dumps([case["result"] for case in cases]))


if __name__ == "__main__":
    main()
