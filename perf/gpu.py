"""Time and memory of the loss and the train step on one GPU.

    pip install "targetsft-jax[cuda]"
    python perf/gpu.py [--rows 4] [--attention auto cudnn pallas_gpu]

Rates are compared with the bfloat16 matmul peak that the same run measures. The shapes
are Qwen2.5-Math's with random weights: a 1.5B student in float32 with AdamW and a 7B
teacher in bfloat16, on packed rows. FLOPs are model FLOPs: attention counted causally,
recomputation not counted. `--tiny` runs the same code on any machine in a minute.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import GRADIENTS, LossProblem

from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import PolicyConfig, TrainConfig
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params
from targetsft_jax.models.kernels import CHOICES, choose
from targetsft_jax.parallel.mesh import make_mesh, platform, put_rows
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.flops import step_flops
from targetsft_jax.training.micro_batch import Numerics, StepSpec
from targetsft_jax.training.optimizer import make_optimizer
from targetsft_jax.training.state import init_state, state_shardings
from targetsft_jax.training.step import make_train_step

ARCHITECTURES = Path(__file__).parents[1] / "configs/architectures"
SEGMENTS = 4
"""Examples packed into a row."""


def main() -> None:
    """Print the table."""
    options = _parser().parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}")
    student, teacher = _models(options.tiny)
    peak = _matmul_peak(1024 if options.tiny else 8192, options.repeats)
    print(f"bfloat16 matmul peak {peak / 1e12:.1f} TFLOP/s\n")
    print(f"{'':<34}{'s':>9}{'TFLOP/s':>10}{'of peak':>9}{'peak GiB':>10}")
    for chunk in options.chunks:
        problem = LossProblem(
            options.rows * options.length,
            vocabulary=student.vocab_size,
            width=student.hidden_size,
            teacher_width=teacher.hidden_size,
            teacher_vocabulary=teacher.vocab_size,
            chunk=chunk,
            dtype="bfloat16",
        )
        seconds = _loss_seconds(problem, options.repeats)
        _print_row(f"loss, chunks of {chunk}", seconds, problem.flops, peak)
    for attention in options.attention:
        for method, frozen in (("target_sft", {"teacher": teacher}), ("sft", {})):
            try:
                kernel = choose(
                    attention, device.platform, student, options.length, jnp.bfloat16
                )
            except ValueError as error:
                print(f"step, {attention}: {error}")
                continue
            seconds, flops = _step(student, frozen, method, attention, options)
            _print_row(f"step, {method}, {kernel}", seconds, flops, peak)


def _print_row(name: str, seconds: float, flops: float, peak: float) -> None:
    memory = jax.devices()[0].memory_stats() or {}
    gib = memory.get("peak_bytes_in_use", 0) / GIB
    rate = flops / seconds
    print(
        f"{name:<34}{seconds:>9.3f}{rate / 1e12:>10.1f}{rate / peak:>9.1%}{gib:>10.1f}"
    )


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of a call, after a compiling one."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _matmul_peak(size: int, repeats: int) -> float:
    """Measure the FLOP/s of a large bfloat16 product."""
    left = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / _median_seconds(lambda: product(left), 3 * repeats)


def _loss_seconds(problem: LossProblem, repeats: int) -> float:
    """Measure the seconds of the loss with both gradients."""
    arguments = problem.arrays()
    gradients = jax.jit(jax.value_and_grad(problem.loss, GRADIENTS))
    return _median_seconds(lambda: gradients(*arguments), repeats)


def _step(
    student: DecoderConfig,
    frozen: Mapping[str, DecoderConfig],
    method: str,
    attention: str,
    options: argparse.Namespace,
) -> tuple[float, float]:
    """Measure the seconds of an optimizer step; return them and its model FLOPs."""
    mesh = make_mesh(devices=jax.devices()[:1])
    dtype = jnp.float32 if platform(mesh) == "cpu" else jnp.bfloat16
    vocab_size = min(c.vocab_size for c in (student, *frozen.values()))
    spec = StepSpec(
        student=student,
        frozen=frozen,
        method=resolve({"name": method}, PolicyConfig()),
        vocab_size=vocab_size,
        numerics=Numerics(dtype, "full", attention, max(options.chunks)),
    )
    optimizer = make_optimizer(TrainConfig(learning_rate=1e-5), 1000)
    params = init_params(student, jax.random.key(2))
    shardings = state_shardings(student, params, optimizer, mesh)
    state = init_state(params, optimizer, shardings)
    del params
    frozen_params = {
        role: init_params(config, jax.random.key(3), dtype=dtype)
        for role, config in frozen.items()
    }
    step = make_train_step(spec, optimizer, mesh, shardings)
    batch = put_rows(_packed(vocab_size, options.rows, options.length), mesh, lead=1)

    def run() -> Any:
        nonlocal state
        state, metrics = step(state, frozen_params, batch)
        return metrics

    seconds = _median_seconds(run, options.repeats)
    flops = step_flops(
        student,
        frozen.values(),
        length=options.length,
        vocabulary=vocab_size,
        mean_context=(options.length // SEGMENTS + 1) / 2,
    )
    return seconds, flops.model * options.rows * options.length


def _packed(vocabulary: int, rows: int, length: int) -> dict[str, np.ndarray]:
    """Make a batch [1, B, L] of equally long segments; every token is a target."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (1, rows, length + 1))
    positions = np.arange(length)
    segment_length = length // SEGMENTS
    segments = positions // segment_length + 1
    shape = (1, rows, length)
    return {
        "tokens": tokens[..., :-1].astype(np.int32),
        "labels": tokens[..., 1:].astype(np.int32),
        "loss_mask": np.ones(shape, bool),
        "segment_ids": np.broadcast_to(segments, shape).astype(np.int32),
        "positions": np.broadcast_to(positions % segment_length, shape).astype(
            np.int32
        ),
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--attention", nargs="+", default=["auto"], choices=CHOICES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    return parser


if __name__ == "__main__":
    main()
