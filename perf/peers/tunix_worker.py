"""Worker: google-tunix's DistillationTrainer, logit strategy, T = 1 and α = ½."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from measure import SEED, WIDTHS, N, V, growth
from tunix.distillation import distillation_trainer
from tunix.distillation.strategies.logit import LogitStrategy
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params


def _load(folder: Path) -> tuple[jax.sharding.Mesh, Any]:
    raw = json.loads((folder / "config.json").read_text())
    config = qwen2.ModelConfig(
        num_layers=raw["num_hidden_layers"],
        vocab_size=raw["vocab_size"],
        embed_dim=raw["hidden_size"],
        hidden_dim=raw["intermediate_size"],
        num_heads=raw["num_attention_heads"],
        head_dim=raw["head_dim"],
        num_kv_heads=raw["num_key_value_heads"],
        rope_theta=raw["rope_theta"],
        norm_eps=raw["rms_norm_eps"],
        use_tied_embedding=raw["tie_word_embeddings"],
    )
    mesh = jax.make_mesh(
        (1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    model = qwen2_params.create_model_from_safe_tensors(str(folder), config, mesh)
    return mesh, model


def _strategy() -> LogitStrategy:
    def forward(model: Any, input_tokens: Array, input_mask: Array) -> Array:
        tokens = input_tokens[:, :-1]
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        causal = jnp.tril(jnp.ones((length, length), bool))
        mask = jnp.broadcast_to(causal, (tokens.shape[0], length, length))
        return model(tokens, positions, None, mask)[0]

    def labels(input_tokens: Array, input_mask: Array) -> Array:
        return jax.nn.one_hot(input_tokens[:, 1:], V)

    return LogitStrategy(forward, forward, labels, temperature=1.0, alpha=0.5)


def step(problem: Path) -> dict:
    """Seconds between the trainer's requests for rows, and the first loss."""
    data = np.load(problem / "rows.npz")
    mesh, student = _load(problem / "student")
    _, teacher = _load(problem / "teacher")
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-5, 0.9, 0.95, weight_decay=0.01)
    )
    config = distillation_trainer.TrainingConfig(
        eval_every_n_steps=10**6,
        max_steps=len(data["tokens"]),
        max_inflight_computations=1,
    )
    trainer = distillation_trainer.DistillationTrainer(
        student, teacher, _strategy(), optimizer, config
    )
    requests: list[float] = []
    first: dict[str, float] = {}

    def rows() -> Iterator[distillation_trainer.TrainingInput]:
        for tokens in data["tokens"]:
            requests.append(time.perf_counter())
            yield distillation_trainer.TrainingInput(
                input_tokens=tokens, input_mask=np.ones_like(tokens)
            )

    get_loss = trainer.get_train_loss

    def recorded_loss(model: Any, teacher_output: Any, inputs: Any) -> Any:
        value, metrics = get_loss(model, teacher_output, inputs)
        jax.debug.callback(lambda x: first.setdefault("loss", float(x)), value)
        return value, metrics

    trainer.loss_fn = recorded_loss
    with mesh:
        trainer.train(rows())
    requests.append(time.perf_counter())
    return {"loss": first["loss"], "seconds": np.diff(requests).tolist()}


def loss() -> dict:
    """MiB of the strategy's loss with both gradients."""
    rng = np.random.default_rng(SEED)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, jnp.float32)

    width, teacher_width = WIDTHS
    hidden, head = normal(N, width), normal(V, width)
    states, matrix = normal(N, teacher_width), normal(V, teacher_width)
    labels = jnp.asarray(rng.integers(0, V, N))
    strategy = _strategy()

    # The teacher's logits are computed by a separate program, as the trainer does.
    compute_teacher_logits = jax.jit(lambda: states @ matrix.T).lower().compile()

    def total(hidden: Array, head: Array, logits: Array) -> Array:
        one_hot = jax.nn.one_hot(labels, V)
        return strategy.compute_loss(hidden @ head.T, logits, one_hot)[0]

    shape = jax.ShapeDtypeStruct((N, V), jnp.float32)
    run = (
        jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, head, shape).compile()
    )
    return {
        "mib": growth(
            lambda: jax.block_until_ready(run(hidden, head, compute_teacher_logits()))
        )
    }


if __name__ == "__main__":
    folder, measurement, _ = sys.argv[1:]
    print(json.dumps(step(Path(folder)) if measurement == "step" else loss()))
