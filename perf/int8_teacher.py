"""Drift of an int8 teacher, and the time of its products on a CPU.

    python perf/int8_teacher.py ~/smollm2 RUN --data train.jsonl.gz

STUDENT and TEACHER are any two models of one tokenizer: folders, hub ids or runs. Each
line is a teacher with other matrices in int8, against the same one in float32, on the
trained tokens: KL, mean |change of p_y|, and by method the error of the logit gradient
Σ|g − g_live| / Σ|g_live|, with the mean |change of γ| where γ follows the teacher. A
teacher in bfloat16 is the yardstick. Then the largest activation over the median, which
is what one scale per token has to span, by projection; and the time of a product.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import targetsft_jax as tsft
from targetsft_jax.checkpoints.open import open_model, shared_tokenizer
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.models import decoder, layers
from targetsft_jax.models.int8 import dequantised, int8_product, quantised
from targetsft_jax.parallel.mesh import make_mesh

METHODS = {"target_sft": {}, "kd": {}, "kd_h": {}, "reverse_kl": {}, "jsd": {}}
"""Methods and their hyper-parameters; `prift` reads the teacher as its reference."""

TEACHERS = {
    "bfloat16 in place of float32": "bfloat16",
    "int8 weights and activations": "both",
    "int8 weights alone": "weights",
    "int8, all but down": "not down",
}


def main() -> None:
    """Print the tables."""
    options = _options()
    student, teacher = open_model(options.student), open_model(options.teacher)
    tokenizer = shared_tokenizer({"student": student, "teacher": teacher})
    data = DataConfig(
        source="jsonl",
        path=str(options.data),
        max_length=options.length,
        limit=4 * options.rows,
    )
    dataset = prepare(data, tokenizer).train
    batch = dataset.take(np.arange(min(options.rows, dataset.rows)))
    columns = slice(len(tokenizer))
    p = _logits(student, batch)[:, columns]
    live = _logits(teacher, batch)[:, columns]
    labels = jnp.asarray(batch["labels"][batch["loss_mask"]])
    print(f"{len(labels):,} trained tokens, vocabulary {len(tokenizer):,}\n")
    print(
        "| teacher | KL, nats | largest | change of p_y |"
        + "".join(f" {name} |" for name in METHODS)
        + " prift: g | prift: change of γ |"
    )
    print("|---|---:|---:|---:|" + "---:|" * (len(METHODS) + 2))
    for title, kind in TEACHERS.items():
        other = _logits(teacher, batch, kind)[:, columns]
        print(f"| {title} | {_row(p, live, other, labels)} |", flush=True)
    print("\nlargest |activation| over the median, in the worst token of all layers")
    for name, ratio in _outliers(teacher, batch).items():
        print(f"  {name:<5} {ratio:10,.0f}")
    print("\nmilliseconds of a product of 1,024 tokens on this CPU, best of 10")
    for source, target in ((576, 1536), (1536, 576), (2048, 2048)):
        print(f"  {source} x {target}: {_times(source, target)}")


def _row(p, live, other, labels) -> str:
    log_live, log_other = (jax.nn.log_softmax(x) for x in (live, other))
    gap = log_live - log_other
    kl = jnp.sum(jnp.exp(log_live) * (gap + jnp.expm1(-gap)), -1)
    prob = [
        jnp.exp(jnp.take_along_axis(x, labels[:, None], -1))[:, 0]
        for x in (log_live, log_other)
    ]
    cells = [f"{kl.mean():.2g}", f"{kl.max():.2g}"]
    cells.append(f"{jnp.abs(prob[1] - prob[0]).mean():.2g}")
    for name, hyper in METHODS.items():
        old, new = (
            tsft.target(name, p, labels, teacher_logits=x, **hyper)
            for x in (live, other)
        )
        cells.append(_error(old, new))
    old, new = (tsft.target("prift", p, labels, reference_prob=x) for x in prob)
    cells += [_error(old, new), f"{jnp.abs(new.gamma - old.gamma).mean():.2g}"]
    return " | ".join(cells)


def _error(old, new) -> str:
    before, after = old.logit_gradient(), new.logit_gradient()
    return f"{jnp.sum(jnp.abs(after - before)) / jnp.sum(jnp.abs(before)):.2%}"


def _logits(model, batch, kind: str = "") -> jax.Array:
    """Logits [n, V] at the trained labels, with matrices as `TEACHERS` names them."""
    mesh = make_mesh(devices=jax.devices()[:1])
    params = model.load(mesh, jnp.float32, int8=kind in ("both", "not down"))
    dtype = jnp.float32
    if kind == "bfloat16":
        dtype = jnp.bfloat16
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    if kind == "weights":
        params["layers"] = _rounded(params["layers"])
    if kind == "not down":
        down = model.load(mesh, jnp.float32)["layers"]["mlp"]["down"]
        params["layers"]["mlp"]["down"] = down
    hidden = _hidden(model, params, batch, dtype)[jnp.asarray(batch["loss_mask"])]
    # As the loss: sums in float32, whatever the operands are.
    return jnp.einsum(
        "nd,vd->nv", hidden, decoder.head(params), preferred_element_type=jnp.float32
    )


def _hidden(model, params, batch, dtype=jnp.float32) -> jax.Array:
    names = ("positions", "segment_ids")
    options = {name: jnp.asarray(batch[name]) for name in names}
    tokens = jnp.asarray(batch["tokens"])
    return jax.jit(
        lambda params: decoder.apply(
            model.config, params, tokens, dtype=dtype, **options
        )
    )(params)


def _rounded(tree: dict) -> dict:
    """A tree with its kernels rounded to int8 and back."""
    return {
        name: dequantised(*quantised(x), jnp.float32)
        if name == "kernel"
        else (_rounded(x) if isinstance(x, dict) else x)
        for name, x in tree.items()
    }


def _outliers(model, batch) -> dict[str, float]:
    """Projection -> max|x| / median|x| of its input, in the worst token and layer."""
    found: dict[str, float] = {}
    real = jnp.asarray(batch["segment_ids"] > 0)

    def record(name: str, ratio: np.ndarray) -> None:
        found[name] = max(found.get(name, 0.0), float(ratio))

    def watch(call: Callable, arguments: tuple, options: dict, context) -> jax.Array:
        if isinstance(context.module, layers.Projection):
            size = jnp.abs(arguments[0])
            ratio = jnp.max(size, -1) / jnp.maximum(jnp.median(size, -1), 1e-9)
            worst = jnp.max(jnp.where(real, ratio, 0))
            name = context.module.name
            jax.debug.callback(lambda x, name=name: record(name, x), worst)
        return call(*arguments, **options)

    params = model.load(make_mesh(devices=jax.devices()[:1]), jnp.float32)
    with nn.intercept_methods(watch):
        jax.block_until_ready(_hidden(model, params, batch))
    jax.effects_barrier()
    return found


def _times(source: int, target: int) -> str:
    x = jax.random.normal(jax.random.key(0), (1024, source))
    kernel = jax.random.normal(jax.random.key(1), (source, target))
    pair = quantised(kernel)
    products: dict[str, Callable] = {
        "float32": lambda: jax.jit(jnp.matmul)(x, kernel),
        "int8": lambda: compiled(x, *pair),
    }
    compiled = jax.jit(int8_product)
    best = dict.fromkeys(products, np.inf)
    for _ in range(11):  # in turns
        for name, product in products.items():
            start = time.perf_counter()
            product().block_until_ready()
            best[name] = min(best[name], time.perf_counter() - start)
    return ", ".join(f"{name} {1e3 * x:.2f}" for name, x in best.items())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("--data", type=Path, required=True, help="JSONL, plain or .gz")
    parser.add_argument("--rows", type=int, default=8, help="packed rows (8)")
    parser.add_argument("--length", type=int, default=256, help="tokens per row (256)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
