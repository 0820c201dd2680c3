"""google-tunix: DistillationTrainer with its logit strategy, T = 1 and α = ½."""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import SEED, WIDTHS, N, V, growth
from tunix.distillation import distillation_trainer
from tunix.distillation.strategies.logit import LogitStrategy
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params


def _load(folder: Path):
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
    made = qwen2_params.create_model_from_safe_tensors(str(folder), config, mesh)
    return mesh, made


def _strategy() -> LogitStrategy:
    def forward(model, input_tokens, input_mask):
        tokens = input_tokens[:, :-1]
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        causal = jnp.tril(jnp.ones((length, length), bool))
        mask = jnp.broadcast_to(causal, (tokens.shape[0], length, length))
        return model(tokens, positions, None, mask)[0]

    def labels(input_tokens, input_mask):
        return jax.nn.one_hot(input_tokens[:, 1:], V)

    return LogitStrategy(forward, forward, labels, temperature=1.0, alpha=0.5)


def step(problem: Path) -> dict:
    """Seconds between the rows that the trainer asks for, and the first loss."""
    given = np.load(problem / "rows.npz")
    mesh, student = _load(problem / "student")
    _, teacher = _load(problem / "teacher")
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-5, 0.9, 0.95, weight_decay=0.01)
    )
    config = distillation_trainer.TrainingConfig(
        eval_every_n_steps=10**6,
        max_steps=len(given["tokens"]),
        max_inflight_computations=1,
    )
    trainer = distillation_trainer.DistillationTrainer(
        student, teacher, _strategy(), optimizer, config
    )
    asked: list[float] = []
    first: dict[str, float] = {}

    def rows():
        for tokens in given["tokens"]:
            asked.append(time.perf_counter())
            yield distillation_trainer.TrainingInput(
                input_tokens=tokens, input_mask=np.ones_like(tokens)
            )

    get = trainer.get_train_loss

    def seen(model, teacher_output, inputs):
        value, metrics = get(model, teacher_output, inputs)
        jax.debug.callback(lambda x: first.setdefault("loss", float(x)), value)
        return value, metrics

    trainer.loss_fn = seen
    with mesh:
        trainer.train(rows())
    asked.append(time.perf_counter())
    return {"loss": first["loss"], "seconds": np.diff(asked).tolist()}


def loss() -> dict:
    """MiB of the strategy's loss and of both gradients."""
    rng = np.random.default_rng(SEED)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-1] ** 0.5, jnp.float32)

    width, other = WIDTHS
    hidden, head = normal(N, width), normal(V, width)
    states, matrix = normal(N, other), normal(V, other)
    labels = jnp.asarray(rng.integers(0, V, N))
    strategy = _strategy()

    # The teacher's logits are made in a program of their own, as the trainer does.
    outside = jax.jit(lambda: states @ matrix.T).lower().compile()

    def total(hidden, head, teacher_logits):
        one_hot = jax.nn.one_hot(labels, V)
        return strategy.compute_loss(hidden @ head.T, teacher_logits, one_hot)[0]

    shape = jax.ShapeDtypeStruct((N, V), jnp.float32)
    run = (
        jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, head, shape).compile()
    )
    return {"mib": growth(lambda: jax.block_until_ready(run(hidden, head, outside())))}


if __name__ == "__main__":
    folder, what, _ = sys.argv[1:]
    print(json.dumps(step(Path(folder)) if what == "step" else loss()))
