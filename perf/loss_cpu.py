"""Time and memory of the fused loss against two other implementations, on a CPU.

    python perf/loss_cpu.py [--rounds 5] [--masked 0.5]

Target-SFT's loss with both gradients, computed three ways: dense logits with autodiff;
chunks of logits under `jax.checkpoint`, as most frameworks do; and `fused_loss`.
Rounds alternate between them, so that other work on the machine slows all of them;
medians are compared. Time is CPU seconds, memory is the compiler's temporaries.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from problems import CPU, GRADIENTS, METHOD

from targetsft_jax import objective
from targetsft_jax.loss import reference_loss

Teacher = tuple[Array, Array]


def dense_loss(
    hidden: Array, head: Array, labels: Array, weights: Array, teacher: Teacher
) -> Array:
    """Materialise the logits; autodiff of CE(stop_gradient(Q), p)."""
    return reference_loss(
        METHOD, hidden, head, labels, weights=weights, teacher=teacher
    )


def checkpointed_loss(
    hidden: Array, head: Array, labels: Array, weights: Array, teacher: Teacher
) -> Array:
    """Compute chunks of logits, recomputed in the backward pass."""

    @jax.checkpoint
    def chunk_loss(x: Array, y: Array, w: Array, t: Array) -> Array:
        logits = x @ head.T
        teacher_logits = jax.lax.stop_gradient(t @ teacher[1].T)
        return jnp.sum(w * objective(METHOD, logits, y, teacher_logits=teacher_logits))

    def split(x: Array) -> Array:
        return x.reshape(-1, CPU.chunk, *x.shape[1:])

    chunks = tuple(map(split, (hidden, labels, weights, teacher[0])))
    total, _ = jax.lax.scan(
        lambda total, chunk: (total + chunk_loss(*chunk), None), jnp.zeros(()), chunks
    )
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each")
    parser.add_argument(
        "--masked", type=float, default=0.5, help="share of masked tokens"
    )
    options = parser.parse_args()
    hidden, head, labels, weights, teacher = CPU.arrays()
    is_masked = jnp.arange(CPU.tokens) % 256 < 256 * options.masked
    masked = jnp.where(is_masked, 0, weights)

    runs: dict[str, Callable[[], tuple[Array, tuple[Array, Array]]]] = {}
    mebibytes, losses = {}, {}
    for name, function, row_weights in (
        ("dense", dense_loss, weights),
        ("checkpointed", checkpointed_loss, weights),
        ("fused", CPU.loss, weights),
        (f"fused, {options.masked:.0%} masked", CPU.loss, masked),
    ):
        arguments = (hidden, head, labels, row_weights, teacher)
        gradients = jax.jit(jax.value_and_grad(function, GRADIENTS))
        compiled = gradients.lower(*arguments).compile()
        runs[name] = lambda c=compiled, a=arguments: jax.block_until_ready(c(*a))
        mebibytes[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        losses[name] = float(runs[name]()[0])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)

    print(
        f"N={CPU.tokens} V={CPU.vocabulary} D={CPU.width} teacher {CPU.teacher_width} "
        f"{CPU.dtype}, chunks of {CPU.chunk}"
    )
    print(f"{'':<20}{'loss':>10}{'CPU s':>8}{'x dense':>9}{'MiB':>8}{'x dense':>9}")
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, taken in median.items():
        print(
            f"{name:<20}{losses[name]:>10.5f}{taken:>8.2f}"
            f"{taken / median['dense']:>9.2f}{mebibytes[name]:>8.0f}"
            f"{mebibytes[name] / mebibytes['dense']:>9.2f}"
        )
    print(f"fused / checkpointed {median['fused'] / median['checkpointed']:.2f}")


if __name__ == "__main__":
    main()
