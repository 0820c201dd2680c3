"""Worker: this package's train step and fused loss."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from measure import SEED, WIDTHS, N, V, growth, peak_gib, reset_peak

import targetsft_jax as tsft
from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import PolicyConfig, TrainConfig
from targetsft_jax.parallel.mesh import make_mesh, put_rows
from targetsft_jax.training.micro_batch import Numerics, StepSpec
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.step import make_train_step

CHUNK = 512


def step(problem: Path, objective: str) -> dict:
    """Seconds of each step with its metrics on the host, the first loss, the peak
    memory of all steps."""
    data = np.load(problem / "rows.npz")
    mesh = make_mesh(devices=jax.devices()[:1])
    student = open_model(problem / "student")
    roles = ("teacher",) if objective == "kd_h" else ()
    frozen = {name: open_model(problem / name) for name in roles}
    spec = StepSpec(
        student=student.config,
        frozen={name: model.config for name, model in frozen.items()},
        method=resolve({"name": objective}, PolicyConfig()),
        vocab_size=student.config.vocab_size,
        # The defaults on a CPU.
        numerics=Numerics(loss_chunk=CHUNK, remat="dots"),
    )
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), len(data["tokens"]))
    params = student.load(mesh, "float32")
    shardings = state_shardings(spec.student, params, optimizer, mesh)
    state = init_state(params, optimizer, shardings)
    frozen_params = {
        name: model.load(mesh, "float32") for name, model in frozen.items()
    }
    train_step = make_train_step(spec, optimizer, mesh, shardings)
    losses, seconds = [], []
    del params
    reset_peak()
    for tokens, mask in zip(data["tokens"], data["mask"]):
        start = time.perf_counter()
        batch = put_rows(_batch(tokens, mask), mesh, lead=1)
        state, metrics = train_step(state, frozen_params, batch)
        losses.append(float(jax.device_get(metrics)["loss"]))
        seconds.append(time.perf_counter() - start)
    return {"loss": losses[0], "seconds": seconds, "gib": peak_gib()}


def _batch(tokens: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Batch [1, B, L] of rows with one segment each, from tokens [B, L + 1]."""
    positions = np.arange(mask.shape[1], dtype=np.int32)
    return {
        "tokens": tokens[None, :, :-1],
        "labels": tokens[None, :, 1:],
        "loss_mask": mask[None],
        "segment_ids": np.ones_like(tokens[None, :, :-1]),
        "positions": np.broadcast_to(positions, mask[None].shape),
    }


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
