"""Tiny models, a batch, and helpers of the training tests."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from targetsft_jax.config.method import ResolvedMethod
from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel.mesh import make_mesh, tokens_over
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.api import get_method, hyper_parameters
from targetsft_jax.targets.inputs import column_names
from targetsft_jax.targets.policies import FROM_DATA
from targetsft_jax.training.fit import Fitted, Start, TrainingData, fit
from targetsft_jax.training.micro_batch import BASE, Numerics, StepSpec
from targetsft_jax.training.state import (
    TrainState,
    abstract_state,
    init_state,
    state_shardings,
)
from targetsft_jax.training.step import make_train_step
from targetsft_jax.training.validate import Validation

from .quick import QUICK, quicker

ROWS, LENGTH, VOCABULARY = 8, 16, 264

# As in real checkpoints, both heads have padded rows, and different numbers of them.
STUDENT = DecoderConfig(
    vocab_size=VOCABULARY + 8,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_position_embeddings=960,
    rope_theta=10_000.0,
    qkv_bias=False,
    model_type="llama",
)
# Another width, an untied head and biases.
OTHER = DecoderConfig(
    vocab_size=VOCABULARY + 16,
    hidden_size=48,
    intermediate_size=64,
    num_layers=1,
    num_heads=6,
    num_kv_heads=2,
    rope_theta=10_000.0,
    tie_word_embeddings=False,
)


@lru_cache
def params_of(config: DecoderConfig, seed: int = 0) -> dict:
    """Parameters on the host, large enough that predictions are not uniform."""
    params = decoder.init_params(config, jax.random.key(seed))
    return jax.tree.map(lambda x: np.asarray(x) * 4, params)


@lru_cache
def adapters_of(config: DecoderConfig, adapted: lora.Lora, seed: int = 0) -> dict:
    """Adapters on the host, with a nonzero B, as after training."""
    adapters = lora.init_adapters(config, adapted, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def filled(path, x):
        b = path[-1].key == "lora_b"
        return (rng.normal(size=x.shape) / 8 if b else np.asarray(x)).astype("float32")

    return jax.tree_util.tree_map_with_path(filled, adapters)


def start_of(spec: StepSpec) -> dict:
    """Initial trained parameters of the step: the student's, or its adapters."""
    if spec.lora is None:
        return params_of(spec.student)
    return adapters_of(spec.student, spec.lora)


@lru_cache
def batch() -> dict:
    """[8, 16] packed rows: segments of varying length and very uneven masks.

    Rows 0 and 1 have one target each, rows 6 and 7 nearly all: averaged separately,
    micro-batches would weight the single targets tenfold.
    """
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, 256, (ROWS, LENGTH))
    segment_ids = np.zeros((ROWS, LENGTH), np.int32)
    positions = np.zeros((ROWS, LENGTH), np.int32)
    mask = np.zeros((ROWS, LENGTH), bool)
    for row in range(ROWS):
        ends = np.sort(rng.choice(np.arange(3, LENGTH - 1), 2, replace=False))
        # Uneven rows end in padding, even ones are full.
        bounds = [0, *ends.tolist()] + ([] if row % 2 else [LENGTH])
        for number, (start, end) in enumerate(zip(bounds, bounds[1:]), 1):
            segment_ids[row, start:end] = number
            positions[row, start:end] = np.arange(end - start)
            mask[row, start : end - 1] = rng.uniform(size=end - 1 - start) < row / 7
        if row < 2:
            mask[row] = False
            mask[row, 0] = True
    labels = np.where(mask, np.roll(tokens, -1, axis=1), 0)
    weights = rng.uniform(0.2, 2, (ROWS, LENGTH)) * mask
    return {
        "tokens": np.where(segment_ids > 0, tokens, 0).astype(np.int32),
        "labels": labels.astype(np.int32),
        "loss_mask": mask,
        "segment_ids": segment_ids,
        "positions": positions,
        "trajectory_weight": weights.astype(np.float32),
    }


def micro(parts: int, rows: dict | None = None) -> dict:
    """The batch as [A, B, L] arrays of A = `parts` micro-batches."""
    rows = batch() if rows is None else rows
    return {k: x.reshape(parts, -1, x.shape[-1]) for k, x in rows.items()}


@lru_cache
def examples() -> list[dict]:
    """Eight examples of 5 to 12 tokens with 1 to 9 targets: arrays by name, [length].

    They have every column that a method may need.
    """
    rng, columns = np.random.default_rng(6), np.random.default_rng(7)
    examples = []
    for number in range(8):
        length, targets = 5 + number, [1, 4, 2, 7, 3, 6, 1, 9][number]
        tokens = rng.integers(0, 256, length)
        mask = np.arange(length) >= length - 1 - targets
        mask[-1] = False
        example = {
            "tokens": tokens,
            "labels": np.where(mask, np.roll(tokens, -1), 0),
            "loss_mask": mask,
            "segment_ids": np.ones(length),
            "positions": np.arange(length),
            "trajectory_weight": np.full(length, rng.uniform(0.2, 2)),
            "critical_mask": rng.uniform(size=length) < 0.5,
            "old_logprob": -rng.exponential(4, length),
        }
        for name in column_names():
            if name not in example:
                # Of its own, so that a new column does not change the other arrays.
                example[name] = columns.uniform(size=length)
        examples.append(example)
    return examples


def laid_out(layout: list, parts: int, rows: int, length: int) -> dict:
    """The examples as a padded batch [parts, rows, length].

    Args:
        layout: example numbers by micro-batch and row.
    """
    dtypes = dict.fromkeys(examples()[0], np.float32)
    dtypes |= dict.fromkeys(("tokens", "labels", "segment_ids", "positions"), np.int32)
    dtypes["loss_mask"] = bool
    shape = (parts, rows, length)
    batch = {name: np.zeros(shape, dtype) for name, dtype in dtypes.items()}
    for part, part_rows in enumerate(layout):
        for row, numbers in enumerate(part_rows):
            start = 0
            for segment, number in enumerate(numbers, 1):
                example = examples()[number]
                end = start + len(example["tokens"])
                for name, x in batch.items():
                    x[part, row, start:end] = example[name]
                batch["segment_ids"][part, row, start:end] = segment
                start = end
    return batch


def make_spec(method: str = "target_sft", **changes) -> StepSpec:
    """A StepSpec in float32 with the models that the method reads."""
    roles = {"target_sft": ("teacher",), "asft": ("reference",)}.get(method, ())
    settings = {
        "frozen": {role: OTHER if role == "teacher" else STUDENT for role in roles},
        "vocab_size": VOCABULARY,
        # 128 tokens: several chunks, and the last one ragged.
        "loss_chunk": 24,
        # Not the default, so that dropping the hyper-parameter fails a test.
        "hyper": {"eta": 0.3} if method == "target_sft" else {},
        "columns": ("trajectory_weight",) if method == "iw_sft" else (),
    }
    settings |= changes
    numerics = {
        name: settings.pop(name)
        for name in ("dtype", "remat", "attention", "loss_chunk")
        if name in settings
    }
    resolved = ResolvedMethod(
        method,
        get_method(method),
        hyper_parameters(method, settings.pop("hyper")),
        roles=tuple(settings["frozen"]),
        columns=settings.pop("columns"),
        policy=settings.pop("policy", FROM_DATA),
    )
    return StepSpec(STUDENT, resolved, numerics=Numerics(**numerics), **settings)


def with_numerics(spec: StepSpec, **changes) -> StepSpec:
    """The spec with another dtype, remat, attention kernel or loss chunk."""
    return replace(spec, numerics=replace(spec.numerics, **changes))


def frozen_of(spec: StepSpec, mesh=None) -> dict:
    """Parameters of the step's frozen arguments, sharded on the mesh."""
    frozen = {}
    for number, role in enumerate(spec.frozen_arguments, 7):
        config = spec.student if role == BASE else spec.frozen[role]
        seed = 0 if role == BASE else number
        params = jax.tree.map(jnp.array, params_of(config, seed))
        if mesh is not None:
            shardings = state_shardings(config, params, optax.sgd(1), mesh).params
            params = jax.device_put(params, shardings)
        frozen[role] = params
    return frozen


def one_device():
    """A mesh of a single device."""
    return make_mesh(devices=jax.devices()[:1])


@dataclass(frozen=True)
class Built:
    """A compiled step, and `fresh` states for it, since it donates its argument."""

    step: Callable
    frozen: dict
    fresh: Callable[[], TrainState]


def build(
    spec: StepSpec,
    optimizer,
    mesh=None,
    parts: int = 1,
    given: dict | None = None,
    options: dict = QUICK,
) -> Built:
    """Compile the step for the batch in `parts` micro-batches.

    `mesh` is a single device by default, `given` replaces the batch by one of another
    shape [A, B, L], and `options` are the compiler's.
    """
    mesh = mesh or one_device()
    params = start_of(spec)
    shardings = state_shardings(
        spec.student, params, optimizer, mesh, spec.lora, spec.method.policy
    )
    start = host(init_state(params, optimizer, shardings, spec.method.policy))
    frozen = frozen_of(spec, mesh)

    def fresh() -> TrainState:
        # A copy: on a CPU a donated array may share the caller's memory.
        return jax.device_put(jax.tree.map(np.copy, start), shardings)

    step = make_train_step(spec, optimizer, mesh, shardings)
    lowered = step.lower(fresh(), frozen, given or micro(parts))
    return Built(lowered.compile(compiler_options=options), frozen, fresh)


def lower(
    spec: StepSpec,
    optimizer,
    mesh,
    rows: int,
    length: int,
    frozen_dtype="float32",
    platforms=None,
):
    """Lower the step from abstract arrays, for one micro-batch [rows, length]."""

    def model(config: DecoderConfig, adapted=None, dtype="float32", policy=FROM_DATA):
        def init():
            key = jax.random.key(0)
            if adapted is None:
                return decoder.init_params(config, key, dtype)
            return lora.init_adapters(config, adapted, key)

        params = jax.eval_shape(init)
        shardings = state_shardings(config, params, optimizer, mesh, adapted, policy)
        return abstract_state(params, optimizer, shardings, policy), shardings

    state, shardings = model(spec.student, spec.lora, policy=spec.method.policy)
    models = {BASE: spec.student, **spec.frozen}
    frozen = {
        role: model(models[role], dtype=frozen_dtype)[0].params
        for role in spec.frozen_arguments
    }
    sharding = tokens_over(mesh, lead=1)
    inputs = {
        name: jax.ShapeDtypeStruct((1, rows, length), x.dtype, sharding=sharding)
        for name, x in batch().items()
    }
    step = make_train_step(spec, optimizer, mesh, shardings)
    return step.trace(state, frozen, inputs).lower(lowering_platforms=platforms)


def compile_once(make):
    """Wrap `make_train_step` to compile each program quickly and only once."""
    compiled = {}

    def make_step(*arguments):
        step = make(*arguments)
        programs = []

        def run(*arrays):
            if not programs:
                lowered = step.lower(*arrays)
                # Unused inputs do not appear in the text.
                key = lowered.as_text(), jax.tree.structure(arrays)
                if key not in compiled:
                    compiled[key] = lowered.compile(compiler_options=quicker())
                programs.append(compiled[key])
            return programs[0](*arrays)

        return run

    return make_step


def host(tree):
    """Copy a tree to numpy, so that it survives the donation of a state."""
    return jax.tree.map(lambda x: np.array(x), jax.device_get(tree))


def assert_equal_trees(left, right):
    """Equality of all leaves, bit for bit; the error has the path of the leaf."""
    paths = jax.tree_util.tree_leaves_with_path(left)
    others = jax.tree.leaves(right)
    assert len(paths) == len(others) and paths
    for (path, a), b in zip(paths, others):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def assert_close_trees(left, right, roundings: float, floor=None):
    """Closeness of all leaves, in float32 roundings of their largest element.

    `floor` is a tree of arrays whose magnitude adds roundings, such as a minuend.
    """
    floor = right if floor is None else floor
    eps = float(jnp.finfo("float32").eps)
    leaves = jax.tree_util.tree_leaves_with_path(left)
    for (path, a), b, f in zip(
        leaves, jax.tree.leaves(right), jax.tree.leaves(floor), strict=True
    ):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        allowed = eps * (roundings * np.abs(b).max() + 3 * np.abs(f).max())
        np.testing.assert_allclose(
            a, b, rtol=0, atol=allowed, err_msg=jax.tree_util.keystr(path)
        )


def run_fit(
    spec: StepSpec,
    params: dict,
    frozen: dict,
    dataset: Dataset,
    mesh,
    config: TrainConfig,
    *,
    run_dir: Path,
    seed: int,
    validation: Validation | None = None,
    **options,
) -> Fitted:
    """Call `fit` with parameters that are on the mesh."""
    start = Start(jax.eval_shape(lambda: params), lambda: params)
    data = TrainingData(dataset, seed, validation)
    return fit(
        spec, start, frozen, data, mesh, config, run_dir=RunDir(run_dir), **options
    )


def write_folders(folder) -> dict:
    """role -> path of an exported, untrained model with the byte tokenizer."""
    folders = {}
    for number, role in enumerate(("student", "teacher"), 1):
        params = decoder.init_params(STUDENT, jax.random.key(number))
        folders[role] = folder / role
        save_pretrained(folders[role], STUDENT, params, tokenizer=byte_tokenizer())
    return folders


def metrics_of(run_dir) -> list[dict]:
    """The objects of a run's metrics.jsonl."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def untimed(rows: list[dict]) -> list[dict]:
    """Metrics without those that depend on the clock."""
    clock = ("seconds", "tokens_per_second", "data_wait", "goodput")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def command(arguments: dict) -> list[str]:
    """{"train.steps": 3} -> ["--train.steps", "3"]."""
    return [text for k, v in arguments.items() for text in (f"--{k}", str(v))]


def small_run(folders: dict, run_dir, **more) -> list[str]:
    """Arguments of a run of a few steps on synthetic problems, with overrides."""
    arguments = {
        "run_dir": run_dir,
        "cache_dir": folders["student"].parent / "cache",
        "student.path": folders["student"],
        "teacher.path": folders["teacher"],
        "data.synthetic.examples": 64,
        "data.max_length": 64,
        "train.steps": 4,
        "train.batch_size": 8,
        "train.learning_rate": 1e-2,
    }
    return command(arguments | {k.replace("__", "."): v for k, v in more.items()})


def run_metrics(arguments: list[str]) -> list[dict]:
    """Lines of metrics.jsonl of a run."""
    from targetsft_jax.config.load import load
    from targetsft_jax.training.run import run

    config = load(arguments)
    run(config)
    lines = RunDir(Path(config.run_dir)).metrics.read_text().splitlines()
    return [json.loads(line) for line in lines]
