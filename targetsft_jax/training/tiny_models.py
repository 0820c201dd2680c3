"""Small start models for trials, trained once by plain SFT and cached as exports."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from targetsft_jax.command import Stopped
from targetsft_jax.config.build import BuildConfig
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import PolicyConfig, TrainConfig
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import processes, rules
from targetsft_jax.storage import atomic, manifest
from targetsft_jax.storage.remote_cache import (
    cache_folder,
    read_through,
    write_through,
)
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.training.fit import Start, TrainingData, fit
from targetsft_jax.training.micro_batch import StepSpec

RECIPE = 2
"""Version of the recipe: incremented when a `BuildConfig` yields another folder."""

_ABSENT = "absent"


def start_model(name: str, build: BuildConfig, cache_dir: str, mesh: Mesh) -> Path:
    """Return the export of a built model; train it if it is not cached.

    Args:
        name: name of the role.
        build: architecture, problems and recipe; with `RECIPE` the key of the cache.
        cache_dir: parent folder of the export.
        mesh: device mesh.
    """
    recipe = json.dumps([RECIPE, dataclasses.asdict(build)], sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_folder(cache_dir) / f"{name}-{digest}"
    read_through(folder)
    config = architecture(build)
    size = f"{decoder.num_parameters(config) / 1e6:.2f}M parameters"
    summary = f"{size}, SFT for {build.steps} steps on synthetic problems"
    # All processes build it, or none: the primary process looks into the cache.
    damage = processes.gather_text(_damage(folder))[0]
    if not damage:
        print(f"{name}: start model from the cache ({summary})\n  {folder}")
        return folder
    if damage != _ABSENT:
        print(f"{name}: the start model in {folder} is damaged ({damage})")
    print(f"{name}: building the start model ({summary})")
    try:
        _build(build, config, folder, mesh)
    except Stopped as stop:
        stop.with_details(f"the start model of the {name} is not finished")
        raise
    if processes.is_primary():
        write_through(folder)
    print(f"{name}: start model cached in\n  {folder}")
    return folder


def _damage(folder: Path) -> str:
    """Reason for which a cached model cannot be used; empty for an intact one."""
    if not folder.exists():
        return _ABSENT
    return "; ".join(manifest.differences(folder)[:3])


def architecture(build: BuildConfig) -> DecoderConfig:
    """Return the decoder configuration of a built model."""
    return DecoderConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=build.hidden_size,
        intermediate_size=build.intermediate_size,
        num_layers=build.num_layers,
        num_heads=build.num_heads,
        num_kv_heads=build.num_kv_heads,
        max_position_embeddings=max(4096, build.max_length),
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        # Not qwen2: for that type, AutoTokenizer of transformers rebuilds Qwen's
        # tokenizer instead of reading tokenizer.json.
        qkv_bias=False,
        model_type="llama",
    )


def _build(build: BuildConfig, config: DecoderConfig, folder: Path, mesh: Mesh) -> None:
    tokenizer = byte_tokenizer()
    data = DataConfig(synthetic=build.data, max_length=build.max_length)
    dataset = prepare(data, tokenizer).train
    shapes = decoder.abstract_params(config, jnp.float32)
    shardings = rules.shardings(decoder.logical_axes(config), shapes, mesh)
    initialize = jax.jit(
        lambda key: decoder.init_params(config, key), out_shardings=shardings
    )
    train = TrainConfig(
        steps=build.steps,
        batch_size=build.batch_size,
        learning_rate=build.learning_rate,
        log_every=max(1, build.steps // 5),
        save_every=build.steps,
    )
    sft = resolve({"name": "sft"}, PolicyConfig())
    with _scratch_folder(folder) as scratch:
        fitted = fit(
            StepSpec(config, sft, vocab_size=len(tokenizer)),
            Start(shapes, lambda: initialize(jax.random.key(build.seed))),
            {},
            TrainingData(dataset, build.seed),
            mesh,
            train,
            run_dir=RunDir(scratch),
        )
        if processes.is_primary() and folder.exists() and _damage(folder):
            atomic.set_aside(folder)
        # Of several runs that build the model at once, the first to finish wins.
        save_pretrained(
            folder, config, fitted.state.params, tokenizer=tokenizer, replace=False
        )


@contextlib.contextmanager
def _scratch_folder(beside: Path) -> Iterator[Path]:
    """Temporary folder shared by all processes, managed by the primary process."""
    if not processes.is_primary():
        yield Path(processes.gather_text("")[0])
        return
    scratch = atomic.begin(beside)
    try:
        yield Path(processes.gather_text(str(scratch))[0])
    finally:
        atomic.abandon(scratch)
