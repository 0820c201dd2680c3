"""Worker: this package's training loop and fused loss."""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
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
    """Seconds of each step from metrics.jsonl, and the first loss."""
    data = np.load(problem / "rows.npz")
    steps, rows, length = data["mask"].shape
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
        "tokens": data["tokens"][..., :-1],
        "labels": data["tokens"][..., 1:],
        "loss_mask": data["mask"],
        "segment_ids": np.ones_like(data["tokens"][..., :-1]),
        "positions": np.broadcast_to(
            np.arange(length, dtype=np.int32), data["mask"].shape
        ),
    }
    # All steps have the same rows: one epoch is one step.
    arrays = {name: np.ascontiguousarray(x[0]) for name, x in flat.items()}
    config = TrainConfig(
        steps=steps, batch_size=rows, learning_rate=1e-5, save_every=steps + 1
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(
            spec,
            roles["student"].load(mesh, "float32"),
            {name: role.load(mesh, "float32") for name, role in frozen.items()},
            Dataset(arrays, None, None, "perf"),  # type: ignore[arg-type]
            mesh,
            config,
            run_dir=Path(folder),
            seed=SEED,
        )
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    seconds = [row["seconds"] for row in metrics]
    return {"loss": metrics[0]["loss"], "seconds": seconds}


def loss(objective: str) -> dict:
    """MiB of the loss with both gradients."""
    rng = np.random.default_rng(SEED)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, jnp.float32)

    width, teacher_width = WIDTHS
    hidden, head = normal(N, width), normal(V, width)
    teacher = None
    if objective == "kd_h":
        teacher = normal(N, teacher_width), normal(V, teacher_width)
    labels = jnp.asarray(rng.integers(0, V, N))

    def total(hidden: Array, head: Array) -> Array:
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
    folder, measurement, objective = sys.argv[1:]
    measure = partial(step, Path(folder)) if measurement == "step" else loss
    print(json.dumps(measure(objective)))
