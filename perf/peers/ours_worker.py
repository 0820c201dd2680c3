"""Ours: the trainer's own loop, and the fused loss."""

import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measure import SEED, WIDTHS, N, V, growth

import targetsft_jax as tsft
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.training.fit import fit
from targetsft_jax.training.step import StepSpec

CHUNK = 512


def step(problem: Path, objective: str) -> dict:
    """Seconds of each step as metrics.jsonl has them, and the first loss."""
    given = np.load(problem / "rows.npz")
    steps, rows, length = given["mask"].shape
    mesh = make_mesh(devices=jax.devices()[:1])
    roles = {n: open_model(problem / n) for n in ("student", "teacher")}
    frozen = {"teacher": roles["teacher"]} if objective == "kd_h" else {}
    spec = StepSpec(
        student=roles["student"].config,
        frozen={name: role.config for name, role in frozen.items()},
        method=objective,
        hyper={"kd_weight": 0.5} if frozen else {},
        vocab_size=V,
        loss_chunk=CHUNK,
    )
    flat = {
        "tokens": given["tokens"][..., :-1],
        "labels": given["tokens"][..., 1:],
        "loss_mask": given["mask"],
        "segment_ids": np.ones_like(given["tokens"][..., :-1]),
        "positions": np.broadcast_to(
            np.arange(length, dtype=np.int32), given["mask"].shape
        ),
    }
    # All steps have the same rows: one pass over the data is one step.
    arrays = {name: np.ascontiguousarray(x[0]) for name, x in flat.items()}
    config = TrainConfig(
        steps=steps, batch_size=rows, learning_rate=1e-5, save_every=steps + 1
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(
            spec,
            roles["student"].load(mesh, "float32"),
            {name: role.load(mesh, "float32") for name, role in frozen.items()},
            Dataset(arrays, None, None, "benchmark"),  # type: ignore[arg-type]
            mesh,
            config,
            run_dir=Path(folder),
            seed=SEED,
        )
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    return {"loss": said[0]["loss"], "seconds": [row["seconds"] for row in said]}


def loss(objective: str) -> dict:
    """MiB of the loss and both gradients."""
    rng = np.random.default_rng(SEED)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, jnp.float32)

    width, other = WIDTHS
    hidden, head = normal(N, width), normal(V, width)
    teacher = (normal(N, other), normal(V, other)) if objective == "kd_h" else None
    labels = jnp.asarray(rng.integers(0, V, N))

    def total(hidden, head):
        return tsft.fused_loss(
            objective,
            hidden,
            head,
            labels,
            weights=jnp.full(N, 1 / N),
            teacher=teacher,
            chunk_size=CHUNK,
        )[0]

    run = jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, head).compile()
    return {"mib": growth(lambda: jax.block_until_ready(run(hidden, head)))}


if __name__ == "__main__":
    folder, what, objective = sys.argv[1:]
    said = step(Path(folder), objective) if what == "step" else loss(objective)
    print(json.dumps(said))
