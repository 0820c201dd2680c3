"""Small start models for trials: made once by this trainer, kept as HF folders."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.config.schema import BuildConfig, TrainConfig
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import processes, rules
from targetsft_jax.storage import atomic
from targetsft_jax.training.fit import fit
from targetsft_jax.training.step import StepSpec

# Raised when the same BuildConfig would give another model.
RECIPE = 1


def start_model(name: str, build: BuildConfig, cache_dir: str, mesh: Mesh) -> Path:
    """The folder of a built model; trains it where the cache does not have it."""
    key = json.dumps([RECIPE, dataclasses.asdict(build)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    folder = Path(cache_dir).expanduser() / f"{name}-{digest}"
    tokenizer = byte_tokenizer()
    config = architecture(build)
    size = f"{decoder.num_parameters(config) / 1e6:.2f}M parameters"
    recipe = f"SFT for {build.steps} steps on generated problems"
    # All build it together, or none: as the first process finds the cache.
    made = (folder / "config.json").is_file()
    if processes.gather_text(str(made))[0] == str(True):
        print(f"{name}: start model from the cache ({size}, {recipe})\n  {folder}")
        return folder
    print(f"{name}: no such start model yet; making it ({size}, {recipe})")
    dataset = prepare(
        DataConfig(synthetic=build.data, max_length=build.max_length), tokenizer
    ).train
    shapes = decoder.abstract_params(config, jnp.float32)
    places = rules.shardings(decoder.logical_axes(config), shapes, mesh)
    params = jax.jit(
        lambda key: decoder.init_params(config, key), out_shardings=places
    )(jax.random.key(build.seed))
    train = TrainConfig(
        steps=build.steps,
        batch_size=build.batch_size,
        learning_rate=build.learning_rate,
        log_every=max(1, build.steps // 5),
        save_every=build.steps,
    )
    with _scratch_folder(folder) as run_dir:
        fitted = fit(
            StepSpec(config, vocab_size=len(tokenizer)),
            params,
            {},
            dataset,
            mesh,
            train,
            run_dir=run_dir,
            seed=build.seed,
        )
        save_pretrained(folder, config, fitted.state.params, tokenizer=tokenizer)
    print(f"{name}: kept in\n  {folder}")
    return folder


@contextlib.contextmanager
def _scratch_folder(beside: Path) -> Iterator[Path]:
    """One temporary folder for all processes; the primary one makes and removes it."""
    if not processes.is_primary():
        yield Path(processes.gather_text("")[0])
        return
    scratch = atomic.begin(beside)
    try:
        yield Path(processes.gather_text(str(scratch))[0])
    finally:
        atomic.abandon(scratch)


def architecture(build: BuildConfig) -> DecoderConfig:
    """The decoder of a built model."""
    return DecoderConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=build.hidden_size,
        intermediate_size=build.intermediate_size,
        num_layers=build.num_layers,
        num_heads=build.num_heads,
        num_kv_heads=build.num_kv_heads,
        max_position_embeddings=4096,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        # Llama-shaped: for a folder of type qwen2, transformers' AutoTokenizer would
        # rebuild Qwen's own tokenizer instead of reading ours.
        qkv_bias=False,
        model_type="llama",
    )
