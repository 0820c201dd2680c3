"""The loss and the whole step on one GPU, against the matmul peak of the same run.

    pip install "targetsft-jax[cuda]"
    python perf/gpu.py [--rows 4] [--attention auto cudnn pallas_gpu]

Qwen2.5-Math shapes with random weights: a 1.5B student in float32 with AdamW, and a
7B teacher in bfloat16, on packed rows. FLOPs are model FLOPs: attention counted over
the tokens that a token may look at, recomputation not counted. `--tiny` runs the same
code on any machine in a minute, for the code's sake.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from targetsft_jax import fused_loss
from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params
from targetsft_jax.models.kernels import CHOICES, choose
from targetsft_jax.parallel.mesh import make_mesh, platform
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.flops import step_flops
from targetsft_jax.training.fit import put
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.step import (
    StepSpec,
    init_state,
    make_train_step,
    state_shardings,
)

ARCHITECTURES = Path(__file__).parents[1] / "configs/architectures"
SEGMENTS = 4  # examples packed in a row


def main() -> None:
    """Print the table."""
    asked = _parser().parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}")
    student, teacher = _models(asked.tiny)
    peak = _matmul_peak(1024 if asked.tiny else 8192, asked.repeats)
    print(f"bfloat16 matmul peak {peak / 1e12:.1f} TFLOP/s\n")
    print(f"{'':<34}{'s':>9}{'TFLOP/s':>10}{'of peak':>9}{'peak GiB':>10}")
    tokens = asked.rows * asked.length
    for chunk in asked.chunks:
        took, flops = _loss(student, teacher, tokens, chunk, asked.repeats)
        _row(f"loss, chunks of {chunk}", took, flops, peak)
    for attention in asked.attention:
        for name, frozen in (("target_sft", {"teacher": teacher}), ("sft", {})):
            try:
                taken = choose(
                    attention, device.platform, student, asked.length, jnp.bfloat16
                )
            except ValueError as error:
                print(f"step, {attention}: {error}")
                continue
            took, flops = _step(student, frozen, name, attention, asked)
            _row(f"step, {name}, {taken}", took, flops, peak)


def _row(name: str, seconds: float, flops: float, peak: float) -> None:
    said = jax.devices()[0].memory_stats() or {}
    held = said.get("peak_bytes_in_use", 0) / GIB
    rate = flops / seconds
    print(
        f"{name:<34}{seconds:>9.3f}{rate / 1e12:>10.1f}{rate / peak:>9.1%}{held:>10.1f}"
    )


def _timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call; the first one compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _matmul_peak(size: int, repeats: int) -> float:
    """FLOP/s of a large bfloat16 product."""
    left = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / _timed(lambda: product(left), 3 * repeats)


def _loss(student, teacher, tokens, chunk, repeats) -> tuple[float, float]:
    """Seconds and FLOPs of Target-SFT's loss with both gradients."""
    keys = jax.random.split(jax.random.key(1), 5)
    rows = min(student.vocab_size, teacher.vocab_size)

    def normal(key, *shape):
        return jax.random.normal(key, shape, jnp.bfloat16) / shape[-1] ** 0.5

    def model(states, matrix, config):
        return (
            normal(states, tokens, config.hidden_size),
            normal(matrix, config.vocab_size, config.hidden_size),
        )

    hidden, head = model(keys[0], keys[1], student)
    other = model(keys[2], keys[3], teacher)
    labels = jax.random.randint(keys[4], (tokens,), 0, rows)
    weights = jnp.full(tokens, 1 / tokens)

    @jax.jit
    def pulled(hidden, head, other):
        def loss(hidden, head):
            return fused_loss(
                "target_sft",
                hidden,
                head,
                labels,
                weights=weights,
                teacher=other,
                chunk_size=chunk,
            )[0]

        return jax.value_and_grad(loss, (0, 1))(hidden, head)

    flops = 2 * tokens * rows * (3 * student.hidden_size + teacher.hidden_size)
    return _timed(lambda: pulled(hidden, head, other), repeats), flops


def _step(student, frozen, method, attention, asked) -> tuple[float, float]:
    """Seconds and model FLOPs of an optimizer step."""
    mesh = make_mesh(devices=jax.devices()[:1])
    dtype = jnp.float32 if platform(mesh) == "cpu" else jnp.bfloat16
    spec = StepSpec(
        student=student,
        frozen=frozen,
        method=method,
        vocab_size=min(c.vocab_size for c in (student, *frozen.values())),
        dtype=dtype,
        remat="full",
        attention=attention,
        loss_chunk=max(asked.chunks),
    )
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    params = init_params(student, jax.random.key(2))
    places = state_shardings(student, params, optimizer, mesh)
    state = init_state(params, optimizer, places)
    del params
    others = {
        role: init_params(config, jax.random.key(3), dtype=dtype)
        for role, config in frozen.items()
    }
    step = make_train_step(spec, optimizer, mesh, places)
    batch = put(_packed(spec.vocab_size, asked.rows, asked.length), mesh)

    def run():
        nonlocal state
        state, metrics = step(state, others, batch)
        return metrics

    took = _timed(run, asked.repeats)
    flops = step_flops(
        student,
        frozen.values(),
        length=asked.length,
        vocabulary=spec.vocab_size,
        mean_context=(asked.length // SEGMENTS + 1) / 2,
    )
    return took, flops.model * asked.rows * asked.length


def _packed(vocabulary: int, rows: int, length: int) -> dict[str, np.ndarray]:
    """[1, B, L] rows of equally long segments, every token trained."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (1, rows, length + 1))
    places = np.arange(length)
    part = length // SEGMENTS
    shape = (1, rows, length)
    return {
        "tokens": tokens[..., :-1].astype(np.int32),
        "labels": tokens[..., 1:].astype(np.int32),
        "loss_mask": np.ones(shape, bool),
        "segment_ids": np.broadcast_to(places // part + 1, shape).astype(np.int32),
        "positions": np.broadcast_to(places % part, shape).astype(np.int32),
    }


def _models(tiny: bool) -> tuple[DecoderConfig, DecoderConfig]:
    student = load_config(ARCHITECTURES / "qwen2.5-math-1.5b")
    teacher = load_config(ARCHITECTURES / "qwen2.5-math-7b")
    if not tiny:
        return student, teacher
    small = {"vocab_size": 2048, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    return (
        replace(student, **small, hidden_size=64, intermediate_size=128, head_dim=16),
        replace(teacher, **small, hidden_size=96, intermediate_size=192, head_dim=16),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--attention", nargs="+", default=["auto"], choices=CHOICES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    return parser


if __name__ == "__main__":
    main()
