"""The fused loss against the two usual ways, side by side in one run, on a CPU.

    python perf/loss_cpu.py [--rounds 5] [--masked 0.5]

Target-SFT's loss and both gradients: dense logits with autodiff, chunks of logits
under jax.checkpoint (what most frameworks do), and ours. Rounds alternate, so that a
noisy machine is noisy for all; medians are compared.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from targetsft_jax import fused_loss, objective
from targetsft_jax.loss import reference_loss

N, V, D, D_TEACHER, CHUNK = 2048, 32_000, 512, 768, 512


def dense(hidden, head, labels, weights, teacher):
    """Materialised logits: autodiff of CE(stop_gradient(Q), p)."""
    return reference_loss(
        "target_sft", hidden, head, labels, weights=weights, teacher=teacher
    )


def checkpointed(hidden, head, labels, weights, teacher):
    """Chunks of logits, made again in the backward pass."""

    @jax.checkpoint
    def chunk(x, y, w, t):
        logits, other = x @ head.T, jax.lax.stop_gradient(t @ teacher[1].T)
        return jnp.sum(w * objective("target_sft", logits, y, teacher_logits=other))

    def split(x):
        return x.reshape(-1, CHUNK, *x.shape[1:])

    parts = tuple(map(split, (hidden, labels, weights, teacher[0])))
    return jax.lax.scan(lambda s, p: (s + chunk(*p), None), jnp.zeros(()), parts)[0]


def fused(hidden, head, labels, weights, teacher):
    """Ours."""
    return fused_loss(
        "target_sft",
        hidden,
        head,
        labels,
        weights=weights,
        teacher=teacher,
        chunk_size=CHUNK,
    )[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--masked", type=float, default=0.5)
    asked = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (N, D))
    head = jax.random.normal(keys[1], (V, D)) / D**0.5
    teacher = (
        jax.random.normal(keys[2], (N, D_TEACHER)),
        jax.random.normal(keys[3], (V, D_TEACHER)) / D_TEACHER**0.5,
    )
    labels = jax.random.randint(keys[4], (N,), 0, V)
    weights = jnp.full(N, 1 / N)
    prompts = jnp.where(jnp.arange(N) % 256 < 256 * asked.masked, 0, weights)

    runs, memory, losses = {}, {}, {}
    for name, function, given in (
        ("dense", dense, weights),
        ("checkpointed", checkpointed, weights),
        ("fused", fused, weights),
        (f"fused, {asked.masked:.0%} masked", fused, prompts),
    ):
        pulled = jax.jit(jax.value_and_grad(function, (0, 1)))
        compiled = pulled.lower(hidden, head, labels, given, teacher).compile()
        runs[name] = lambda c=compiled, w=given: jax.block_until_ready(
            c(hidden, head, labels, w, teacher)
        )
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        losses[name] = float(runs[name]()[0])
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)

    print(f"N={N} V={V} D={D} teacher {D_TEACHER} float32, chunks of {CHUNK}")
    print(f"{'':<20}{'loss':>10}{'CPU s':>8}{'x dense':>9}{'MiB':>8}{'x dense':>9}")
    base, held = statistics.median(seconds["dense"]), memory["dense"]
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"{name:<20}{losses[name]:>10.5f}{middle:>8.2f}{middle / base:>9.2f}"
            f"{memory[name]:>8.0f}{memory[name] / held:>9.2f}"
        )
    own = statistics.median(seconds["fused"])
    other = statistics.median(seconds["checkpointed"])
    print(f"fused / checkpointed {own / other:.2f}")


if __name__ == "__main__":
    main()
