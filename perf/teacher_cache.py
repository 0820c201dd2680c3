"""Error of a stored teacher against the live one, by method and number of tokens k.

    python perf/teacher_cache.py ~/smollm2 RUN --data train.jsonl.gz

STUDENT and TEACHER are any two models of one tokenizer: folders, hub ids or runs. The
error is that of the logit gradient, Σ|g − g_live| / Σ|g_live| over the trained tokens,
for the tail that this package completes in the student's shape, and for the usual
alternative, the k tokens renormalised. Beside it is the smallest divergence that the
truncated sum Σ_K π log(π / p) takes, which a divergence never does below 0.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import targetsft_jax as tsft
from targetsft_jax.checkpoints.open import open_model, shared_tokenizer
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.teacher_cache import TOP_K, CacheHeader
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.targets import TopK, completed_logits, top_k

METHODS = {
    "target_sft": {},
    "kd": {},
    "kd_h": {},
    "reverse_kl": {},
    "jsd": {},
    "taid": {"eta": 0.5},
}
KS = (8, 16, 64, 256)


def main() -> None:
    """Print one table."""
    options = _options()
    models = {
        "student": open_model(options.student),
        "teacher": open_model(options.teacher),
    }
    tokenizer = shared_tokenizer(models)
    data = DataConfig(
        source="jsonl",
        path=str(options.data),
        max_length=options.length,
        limit=4 * options.rows,
    )
    dataset = prepare(data, tokenizer).train
    batch = dataset.take(np.arange(min(options.rows, dataset.rows)))
    logits = {name: _logits(model, batch) for name, model in models.items()}
    student, teacher = (x[:, : len(tokenizer)] for x in logits.values())
    labels = jnp.asarray(batch["labels"][batch["loss_mask"]])
    log_p, log_t = (jax.nn.log_softmax(x) for x in (student, teacher))
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_t) * log_t, -1))
    gap = jnp.mean(jnp.sum(jnp.exp(log_t) * (log_t - log_p), -1))
    print(
        f"{len(labels):,} trained tokens, vocabulary {len(tokenizer):,}; entropy of "
        f"the teacher {entropy:.2f}, KL(teacher || student) {gap:.3f} nats\n"
    )
    print(
        "| k | bytes per token | mass left out |"
        + "".join(f" {name} |" for name in METHODS)
        + " least truncated KL |"
    )
    print("|---:|---:|---:|" + "---:|" * (len(METHODS) + 1))
    live = {name: _gradient(name, student, labels, teacher) for name in METHODS}
    for k in KS:
        stored = _as_stored(top_k(teacher, k))
        dropped = TopK(stored.ids, stored.log_probs, jnp.full(stored.shape, -jnp.inf))
        cells = []
        for name in METHODS:
            errors = [
                _error(
                    _gradient(name, student, labels, completed_logits(student, x)),
                    live[name],
                )
                for x in (stored, dropped)
            ]
            cells.append(f"{errors[0]:.2%} ({errors[1]:.2%})")
        header = CacheHeader(TOP_K, k, 0, {})
        chosen = jnp.take_along_axis(log_p, stored.ids, -1)
        truncated = jnp.sum(
            jnp.exp(stored.log_probs) * (stored.log_probs - chosen), axis=-1
        )
        left_out = jnp.mean(jnp.exp(stored.log_rest))
        print(
            f"| {k} | {header.entry_bytes} | {left_out:.2%} | "
            + " | ".join(cells)
            + f" | {truncated.min():.3f} |",
            flush=True,
        )
    print("\nfirst: completed in the student's shape; in brackets: renormalised")


def _logits(model, batch) -> jax.Array:
    """Logits [n, V] float32 at the trained labels."""
    params = model.load(make_mesh(devices=jax.devices()[:1]), jnp.float32)
    hidden = jax.jit(
        lambda params: decoder.apply(
            model.config,
            params,
            jnp.asarray(batch["tokens"]),
            positions=jnp.asarray(batch["positions"]),
            segment_ids=jnp.asarray(batch["segment_ids"]),
        )
    )(params)
    logits = hidden[jnp.asarray(batch["loss_mask"])] @ decoder.head(params).T
    cap = model.config.final_logit_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def _as_stored(tokens: TopK) -> TopK:
    """Rounded as on disk."""
    return TopK(tokens.ids, tokens.log_probs.astype(jnp.float16), tokens.log_rest)


def _gradient(name: str, logits, labels, teacher) -> jax.Array:
    inputs = {"teacher_logits": teacher, **METHODS[name]}
    return tsft.target(name, logits, labels, **inputs).logit_gradient()


def _error(gradient: jax.Array, live: jax.Array) -> float:
    return float(jnp.sum(jnp.abs(gradient - live)) / jnp.sum(jnp.abs(live)))


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
