"""A run's configuration: one typed tree, from YAML with dotted overrides.

    python -m targetsft_jax.train --config configs/quickstart.yaml --target.eta 0.7

Unknown keys, wrong types and impossible combinations are refused here, before a file,
a device or a model is touched.
"""

import dataclasses
import difflib
import functools
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any, get_args, get_type_hints

from targetsft_jax.command import UsageError
from targetsft_jax.data.config import DataConfig, SyntheticConfig, source_name, sources
from targetsft_jax.data.config import validate as validate_data
from targetsft_jax.targets.api import get_method, hyper_parameters
from targetsft_jax.targets.inputs import policy_sources
from targetsft_jax.targets.methods import METHODS
from targetsft_jax.targets.trajectory import MODES

CONFIG_FILE = "config.yaml"
"""In a run directory: the resolved configuration."""

VALIDATION_PREFIX = "validation_"
"""How the names of metrics of held-out data begin."""

REMAT = ("none", "full", "dots")
ATTENTION = ("auto", "splash", "cudnn", "pallas_gpu", "xla")
DTYPES = ("float32", "bfloat16")
FROZEN_ROLES = ("teacher", "reference")
POLICY_SOURCES = policy_sources()
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


def _target_config() -> type:
    """A field for each hyper-parameter of any method; None: the method's default."""
    names = dict.fromkeys(key for m in METHODS.values() for key in m.defaults)
    fields: list[Any] = [("name", str, field(default="target_sft"))]
    fields += [(name, Any, field(default=None)) for name in names]
    return make_dataclass("TargetConfig", fields, frozen=True)


TargetConfig: Any = _target_config()


@dataclass(frozen=True)
class BuildConfig:
    """A small start model that the package's own trainer makes once and caches.

    Plain SFT from random weights on generated problems, with the byte tokenizer.
    """

    hidden_size: int = 256
    """Width of the model."""
    intermediate_size: int = 512
    """Width of the MLP."""
    num_layers: int = 2
    """Decoder layers."""
    num_heads: int = 8
    """Query heads."""
    num_kv_heads: int = 4
    """Key/value heads."""
    data: SyntheticConfig = field(default_factory=SyntheticConfig)
    """The problems that it learns from."""
    max_length: int = 256
    """Tokens in a row."""
    steps: int = 300
    """Optimizer steps of plain SFT."""
    batch_size: int = 32
    """Rows a step."""
    learning_rate: float = 1.5e-3
    """Peak learning rate."""
    seed: int = 1
    """Of the weights and of the order of batches."""


@dataclass(frozen=True)
class RoleConfig:
    """A model: a Hugging Face folder or hub id, or one to build."""

    path: str | None = None
    """Local folder or hub id (safetensors only), or a run directory of this package."""
    build: BuildConfig | None = None
    """Made on first use and cached; not together with `path`."""
    dtype: str | None = None
    """Parameter dtype: float32 for the student, bfloat16 for frozen roles and for the
    base of adapters on accelerators, float32 on the CPU, unless given."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv:2106.09685) over the student, which is frozen.

    They are float32 and start at nothing.
    """

    rank: int = 16
    """Columns of A and rows of B."""
    alpha: float = 32.0
    """The product of A and B counts alpha / rank times."""
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))
    """The projections of every layer that have adapters."""
    dropout: float = 0.0
    """Of the adapters' input; only 0."""


@dataclass(frozen=True)
class PolicyConfig:
    """Where PSFT's old policy and iw-SFT's trajectory weights come from."""

    old_logprob: str | None = None
    """PSFT: `snapshot` of the student, refreshed in the run, or `data`, the column of
    that name. null: snapshot, unless the data has the column, which is refused."""
    refresh_every: int = 8
    """PSFT: optimizer steps from one snapshot to the next."""
    trajectory_weight: str | None = None
    """iw-SFT: of the `current` policy or its `ema` against the reference, or `data`,
    the column of that name. null: current, unless the data has the column, which is
    refused."""
    ema_decay: float = 0.9
    """iw-SFT: of the average of the student, in each optimizer step."""
    mode: str = "mean"
    """iw-SFT: of a trajectory's log-ratios: mean, sum, or token (each its own)."""
    temperature: float = 1.0
    """iw-SFT: factor on that mean or sum."""
    clip: list[float] = field(default_factory=lambda: [0.0, 16.0])
    """iw-SFT: smallest and largest weight."""


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, what is left of the devices."""

    data: int = -1
    """Rows of the batch."""
    fsdp: int = 1
    """Rows of the batch, and parameters."""
    tensor: int = 1
    """Heads, MLP, vocabulary."""
    vocab_group: int | None = None
    """Neighbours on the fsdp axis that share the vocabulary's matrices and exchange
    their tokens for it; a divisor of fsdp. null: what moves and holds the least."""
    cpu_devices: int | None = None
    """Virtual devices of each process on the CPU, to try a mesh without others."""
    coordinator: str | None = None
    """HOST:PORT of the first process, where a run has several; "auto" on TPU pods,
    SLURM and MPI. null: JAX_COORDINATOR_ADDRESS if set, else one process."""
    processes: int | None = None
    """How many processes, with a HOST:PORT; null: JAX_NUM_PROCESSES."""
    process: int | None = None
    """The number of this one, from 0; null: JAX_PROCESS_ID."""
    join_seconds: int = 300
    """How long a process waits for the others at the start."""
    heartbeat_seconds: int = 10
    """A process silent for so long counts as dead, and all others end."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimizer, its schedule and the shape of a step."""

    steps: int | None = None
    """Optimizer steps; null: `epochs` passes over the packed rows."""
    epochs: float = 1.0
    """Passes over the data, where `steps` is null."""
    batch_size: int = 32
    """Rows of `data.max_length` tokens in an optimizer step, over all devices."""
    accumulation_steps: int = 1
    """Parts that a step's rows are taken in, to save memory."""
    learning_rate: float = 5e-5
    """Peak of the cosine schedule."""
    warmup_ratio: float = 0.1
    """Share of the steps with a rising learning rate."""
    final_learning_rate_ratio: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = 0.01
    """AdamW's; not applied to norms and biases."""
    beta1: float = 0.9
    """AdamW's first moment."""
    beta2: float = 0.95
    """AdamW's second moment."""
    clip_norm: float = 1.0
    """Global gradient norm is cut to this; 0 does not cut."""
    dtype: str | None = None
    """Compute dtype: bfloat16 on accelerators, float32 on the CPU, unless given."""
    remat: str = "none"
    """Recomputation in the backward pass: none, full or dots."""
    attention: str = "auto"
    """Attention kernel: auto (the fastest that the devices and the model allow),
    splash (TPU), cudnn or pallas_gpu (GPU), xla (everywhere)."""
    loss_chunk: int | None = None
    """Tokens in a chunk of the fused loss; null: 512 on the CPU, else 2048."""
    log_every: int = 10
    """Steps between printed lines; metrics.jsonl has every step."""
    save_every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    save_minutes: float | None = None
    """Minutes between checkpoints, as well as `save_every`; null: by steps alone."""
    max_to_keep: int = 2
    """How many of the newest checkpoints stay."""
    keep_every: int | None = None
    """Checkpoints of steps that are a multiple of it stay for ever; null: none."""
    keep_best: str | None = None
    """A metric such as nll: the checkpoint where it was lowest stays too. With one of
    held-out data, such as validation_nll, each step where that is measured is saved."""
    max_skipped_steps: int = 10
    """Steps in a row with a loss or gradient that is not finite, which change nothing,
    before the run stops."""
    spike_deviations: float = 8.0
    """A loss so many deviations above the median of those before is said, with its
    records; 0: none is."""
    spike_window: int = 64
    """How many losses before a step that is taken over."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Average@k on held-out problems, before and after training."""

    problems: int = 0
    """How many held-out problems; 0 skips evaluation."""
    samples: int = 16
    """k, samples for each problem."""
    temperature: float = 1.0
    """Of sampling; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus of sampling."""
    top_k: int = 0
    """Sample from the so many most probable tokens; 0 is all."""
    max_new_tokens: int = 128
    """Longest answer; a longer one counts as truncated, and wrong."""
    include_teacher: bool = False
    """Measure the teacher too: what the student could learn from it."""
    data: DataConfig | None = None
    """Problems with answers from a file; null: the held-out synthetic problems."""


@dataclass(frozen=True)
class ValidationConfig:
    """The loss on held-out examples, measured during training."""

    examples: int = 0
    """Examples of `data` kept out of training for this; 0: none."""
    data: DataConfig | None = None
    """Other examples to measure on, in place of those; null: none."""
    every: int = 100
    """Optimizer steps between measurements; the last step always has one."""


@dataclass(frozen=True)
class LogConfig:
    """What a run writes down beside metrics.jsonl and TensorBoard's files."""

    wandb: str | None = None
    """Project at Weights & Biases; needs the package `wandb`."""
    profile_from: int | None = None
    """First of the steps that are profiled into RUN/profile; null: none."""
    profile_steps: int = 3
    """How many steps are profiled."""


@dataclass(frozen=True)
class Config:
    """One run."""

    run_dir: str = "runs/default"
    """Where metrics, checkpoints and the exported model go."""
    resume: bool = True
    """Go on from the run directory's newest checkpoint where it has one."""
    seed: int = 0
    """Of the order of batches and of sampling."""
    cache_dir: str = "~/.cache/targetsft_jax"
    """Where built models, tokens and packed rows are kept."""
    student: RoleConfig = field(default_factory=RoleConfig)
    """The model that is trained."""
    teacher: RoleConfig = field(default_factory=RoleConfig)
    """The frozen teacher, for methods that need one."""
    reference: RoleConfig = field(default_factory=RoleConfig)
    """The frozen reference; without a path, the student as it starts."""
    lora: LoraConfig | None = None
    """Train adapters over the student; null: train all of it."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """The method and its hyper-parameters (null: the method's default)."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """What PSFT and iw-SFT weigh the student against."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is trained on."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """On which devices."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What is measured on the way."""
    log: LogConfig = field(default_factory=LogConfig)
    """What is written down."""
    compare: list[str] = field(default_factory=list)
    """Other methods trained first on the same data from the same start."""


class ConfigError(UsageError):
    """A configuration that cannot be run, in one readable message."""


def load(arguments: Sequence[str]) -> Config:
    """The configuration that a command line asks for, validated.

    Args:
        arguments: `--config FILE` and dotted overrides such as `--train.steps 10`.

    Raises:
        ConfigError: naming the key, what was found and what was expected.
        SystemExit: after `--help` or `--print-config`.
    """
    import jsonargparse

    parser = _parser()
    show = "--print-config" in arguments
    # `--resume` alone is the flag that people type; the parser wants its value.
    given = ["--resume=true" if a == "--resume" else a for a in _joined(arguments)]
    try:
        parsed = parser.parse_args([a for a in given if a != "--print-config"])
        _check_sections(parsed)
        tree = parser.instantiate(parsed)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        message = f"{error}{_nearest(str(error))}\nSee --help for all keys."
        raise ConfigError(message) from None
    config = Config(**{f.name: tree[f.name] for f in dataclasses.fields(Config)})
    validate(config)
    if show:
        sys.stdout.write(to_yaml(config))
        raise SystemExit(0)
    return config


@functools.cache
def _parser() -> Any:
    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        """Takes no beginning of a key for the key, in no section either."""

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **{"allow_abbrev": False} | options)

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(
        prog="python -m targetsft_jax.train",
        description="Train a student by an explicit target distribution.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file")
    parser.add_class_arguments(Config, None)
    return parser


def _check_sections(parsed: Any) -> None:
    """jsonargparse takes a number for a whole section and fails on it later."""
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind) and not hasattr(parsed[name], "__dict__"):
            first = dataclasses.fields(kind)[0].name
            raise ValueError(
                f"{name} is {parsed[name]!r}; expected a section with keys such as "
                f"{name}.{first}"
            )


def keys() -> list[str]:
    """Every key of the tree with its path, such as `train.steps`."""
    return list(_paths(Config, ""))


def to_yaml(config: Config) -> str:
    """The resolved tree as YAML that `load` reads back."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def trainings(config: Config) -> dict[str, dict[str, Any]]:
    """Every method that a run trains with its full hyper-parameters, the target last.

    Raises:
        ValueError: naming the key of an unknown method or a wrong hyper-parameter.
    """
    target = dataclasses.asdict(config.target)
    name = target.pop("name")
    given = {key: value for key, value in target.items() if value is not None}
    try:
        hyper = hyper_parameters(name, given)
    except ValueError as error:
        raise ValueError(
            f"target: {error}. To drop a key that the file sets, override it with null"
        ) from None
    _check_types(name, hyper)
    compared = {}
    for other in config.compare:
        if other == name:
            raise ValueError(
                f"compare has {other!r}, which target.name trains already; list others"
            )
        try:
            compared[other] = hyper_parameters(other, {})
        except ValueError as error:
            raise ValueError(f"compare: {error}") from None
    return compared | {name: hyper}


def validate(config: Config) -> None:
    """Refuse what cannot run; raises ConfigError naming the key."""
    try:
        validate_data(config.data)
        if config.evaluation.data is not None:
            validate_data(config.evaluation.data, "evaluation.data")
        if config.validation.data is not None:
            validate_data(config.validation.data, "validation.data")
        needs = _method_needs(config)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _validate_roles(config, needs)
    if config.lora is not None:
        _validate_lora(config.lora)
    _validate_policy(config)
    _validate_train(config.train, config.mesh)
    _validate_evaluation(config)
    _validate_validation(config.validation, config.train.keep_best)
    _validate_log(config.log)
    if config.seed < 0:
        raise ConfigError(f"seed is {config.seed}; expected 0 or more")


def roles_needed(config: Config) -> tuple[str, ...]:
    """The frozen models that a method of the run, or its evaluation, reads."""
    needed = {
        role
        for name, hyper in trainings(config).items()
        for role in frozen_roles(config, name, hyper)
    }
    if config.evaluation.problems and config.evaluation.include_teacher:
        needed |= {"teacher"}
    return tuple(role for role in FROZEN_ROLES if role in needed)


def frozen_roles(
    config: Config, method: str, hyper: Mapping[str, Any]
) -> tuple[str, ...]:
    """The frozen models that a training reads, for its loss or its weights."""
    needs = set(get_method(method).inputs(**hyper))
    if "trajectory_weight" in made_in_step(config, method, hyper):
        needs |= {"reference_logits"}
    return tuple(role for role in FROZEN_ROLES if f"{role}_logits" in needs)


def made_in_step(
    config: Config, method: str, hyper: Mapping[str, Any]
) -> tuple[str, ...]:
    """A method's per-token inputs that the step makes from policies, not the data."""
    needs = get_method(method).inputs(**hyper)
    return tuple(
        key
        for key in POLICY_SOURCES
        if key in needs and getattr(config.policy, key) != "data"
    )


def _method_needs(config: Config) -> set[str]:
    return {
        key
        for name, hyper in trainings(config).items()
        for key in get_method(name).inputs(**hyper)
    }


def _reader(model: str, config: Config) -> str:
    """The first method of the run, its target before all, that reads a second model."""
    hyper = trainings(config)
    return next(
        name
        for name in (config.target.name, *config.compare)
        if model in get_method(name).inputs(**hyper[name])
    )


def _check_types(name: str, hyper: dict[str, Any]) -> None:
    refusal = get_method(name).refusal(**hyper)
    if refusal is not None:
        raise ValueError(f"target.{refusal}")


def _validate_roles(config: Config, needs: set[str]) -> None:
    for name in ("student", "teacher", "reference"):
        role: RoleConfig = getattr(config, name)
        if role.path and role.build:
            raise ConfigError(
                f"{name}.path is {role.path!r} and {name}.build is set too; give one"
            )
        if role.dtype is not None and role.dtype not in DTYPES:
            raise ConfigError(
                f"{name}.dtype is {role.dtype!r}; expected one of {', '.join(DTYPES)}"
            )
    if not (config.student.path or config.student.build):
        raise ConfigError(
            "student.path is null; expected a Hugging Face folder or hub id"
        )
    teacher = config.teacher.path or config.teacher.build
    if "teacher_logits" in needs and not teacher:
        method = _reader("teacher_logits", config)
        raise ConfigError(
            f"method {method!r} needs a teacher and teacher.path is null; expected a "
            "Hugging Face folder or hub id with the student's tokenizer"
        )


def _validate_lora(lora: LoraConfig) -> None:
    unknown = [name for name in lora.targets if name not in LORA_TARGETS]
    known = ", ".join(LORA_TARGETS)
    if unknown:
        raise ConfigError(
            f"lora.targets has {', '.join(map(repr, unknown))}; expected some of "
            f"{known}"
        )
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise ConfigError(
            f"lora.targets is {lora.targets}; expected one or more of {known}, each "
            "of them once"
        )
    if lora.rank < 1:
        raise ConfigError(f"lora.rank is {lora.rank}; expected 1 or more")
    if not 0 < lora.alpha < math.inf:
        raise ConfigError(f"lora.alpha is {lora.alpha}; expected a number more than 0")
    if lora.dropout:
        raise ConfigError(
            f"lora.dropout is {lora.dropout}; expected 0, since no model here has any"
        )


def _validate_policy(config: Config) -> None:
    policy, needs = config.policy, _method_needs(config)

    def require(good: bool, key: str, expected: str) -> None:
        if not good:
            found = getattr(policy, key)
            raise ConfigError(f"policy.{key} is {found!r}; expected {expected}")

    for key, known in POLICY_SOURCES.items():
        source = getattr(policy, key)
        require(source in (None, *known), key, f"one of {', '.join(known)}, or null")
        if source is not None and key not in needs:
            raise ConfigError(
                f"policy.{key} is {source!r} and no method of the run reads "
                f"{key}; expected null, or a target.name that does"
            )
    require(policy.refresh_every >= 1, "refresh_every", "1 or more")
    require(0 <= policy.ema_decay < 1, "ema_decay", "a number in [0, 1)")
    require(policy.mode in MODES, "mode", f"one of {', '.join(MODES)}")
    require(
        0 <= policy.temperature < math.inf, "temperature", "a finite number, 0 or more"
    )
    pair = len(policy.clip) == 2 and 0 <= policy.clip[0] <= policy.clip[1] < math.inf
    require(pair, "clip", "two finite numbers, 0 <= smallest <= largest")


def _validate_train(train: TrainConfig, mesh: MeshConfig) -> None:
    def require(good: bool, key: str, expected: str) -> None:
        if not good:
            found = getattr(train, key)
            raise ConfigError(f"train.{key} is {found!r}; expected {expected}")

    positive = ("batch_size", "accumulation_steps", "log_every", "save_every")
    positive += ("max_skipped_steps", "spike_window")
    chunk = train.loss_chunk
    require(chunk is None or chunk > 0, "loss_chunk", "more than 0, or null")
    for key in (*positive, "max_to_keep", "epochs", "learning_rate"):
        require(0 < getattr(train, key) < math.inf, key, "a number more than 0")
    for key in ("save_minutes", "keep_every"):
        given = getattr(train, key)
        require(given is None or 0 < given < math.inf, key, "more than 0, or null")
    for key in ("beta1", "beta2"):
        require(0 <= getattr(train, key) < 1, key, "a number in [0, 1)")
    for key in ("weight_decay", "final_learning_rate_ratio", "spike_deviations"):
        require(0 <= getattr(train, key) < math.inf, key, "0 or more")
    require(train.steps is None or train.steps > 0, "steps", "more than 0, or null")
    require(train.remat in REMAT, "remat", f"one of {', '.join(REMAT)}")
    kernels = ", ".join(ATTENTION)
    require(train.attention in ATTENTION, "attention", f"one of {kernels}")
    require(
        train.dtype is None or train.dtype in DTYPES,
        "dtype",
        f"one of {', '.join(DTYPES)}, or null",
    )
    require(0 <= train.warmup_ratio < 1, "warmup_ratio", "a share in [0, 1)")
    require(train.clip_norm >= 0, "clip_norm", "0 or more")
    require(
        train.batch_size % train.accumulation_steps == 0,
        "batch_size",
        f"a multiple of train.accumulation_steps = {train.accumulation_steps}",
    )
    if mesh.cpu_devices is not None and mesh.cpu_devices < 1:
        raise ConfigError(f"mesh.cpu_devices is {mesh.cpu_devices}; expected 1 or more")
    if mesh.vocab_group is not None and mesh.vocab_group < 1:
        raise ConfigError(
            f"mesh.vocab_group is {mesh.vocab_group}; expected a divisor of mesh.fsdp, "
            "or null"
        )
    _validate_processes(mesh)


def _validate_processes(mesh: MeshConfig) -> None:
    address = mesh.coordinator
    if address not in (None, "auto") and not re.fullmatch(r".+:\d+", address):
        raise ConfigError(
            f"mesh.coordinator is {address!r}; expected HOST:PORT, auto or null"
        )
    for key in ("processes", "join_seconds", "heartbeat_seconds"):
        found = getattr(mesh, key)
        if found is not None and found < 1:
            raise ConfigError(f"mesh.{key} is {found}; expected 1 or more")
    if mesh.process is not None and mesh.process < 0:
        raise ConfigError(f"mesh.process is {mesh.process}; expected 0 or more")
    if address == "auto" and (mesh.processes, mesh.process) != (None, None):
        raise ConfigError(
            "mesh.coordinator is auto and mesh.processes or mesh.process is given; "
            "expected null for both, since the job's scheduler says them"
        )


def _validate_evaluation(config: Config) -> None:
    asked = config.evaluation
    for key, good, expected in (
        ("problems", asked.problems >= 0, "0 or more"),
        ("samples", asked.samples > 0, "more than 0"),
        ("temperature", asked.temperature >= 0, "0 or more"),
        ("top_p", 0 < asked.top_p <= 1, "a share in (0, 1]"),
        ("top_k", asked.top_k >= 0, "0 or more"),
        ("max_new_tokens", asked.max_new_tokens > 0, "more than 0"),
    ):
        if not good:
            found = getattr(asked, key)
            raise ConfigError(f"evaluation.{key} is {found!r}; expected {expected}")
    if asked.include_teacher and not (config.teacher.path or config.teacher.build):
        raise ConfigError(
            "evaluation.include_teacher is true and teacher.path is null; expected a "
            "teacher, or false"
        )
    generated = config.data.source == "synthetic" and not config.data.mixture
    if asked.problems and asked.data is None and not generated:
        # The file that is trained on would pass for held-out problems.
        raise ConfigError(
            f"evaluation.problems is {asked.problems} and evaluation.data is null; "
            "expected a source of held-out problems, since data is "
            f"{', '.join(map(source_name, sources(config.data)))}"
        )


def _validate_validation(asked: ValidationConfig, keep_best: str | None) -> None:
    measured = asked.examples or asked.data is not None
    if (
        keep_best is not None
        and keep_best.startswith(VALIDATION_PREFIX)
        and not measured
    ):
        raise ConfigError(
            f"train.keep_best is {keep_best!r} and nothing is held out; expected "
            "validation.examples or validation.data, or another metric"
        )
    if asked.examples < 0:
        raise ConfigError(
            f"validation.examples is {asked.examples}; expected 0 or more"
        )
    if asked.every < 1:
        raise ConfigError(f"validation.every is {asked.every}; expected 1 or more")
    if asked.examples and asked.data is not None:
        raise ConfigError(
            f"validation.examples is {asked.examples} and validation.data is set too; "
            "give one (validation.data.limit takes the first of its examples)"
        )


def _validate_log(log: LogConfig) -> None:
    if log.profile_from is not None and log.profile_from < 1:
        raise ConfigError(
            f"log.profile_from is {log.profile_from}; expected a step, 1 or more, or "
            "null"
        )
    if log.profile_steps < 1:
        raise ConfigError(
            f"log.profile_steps is {log.profile_steps}; expected 1 or more"
        )


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--resume VALUE` written as one."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--resume" and not argument.startswith("--"):
            joined[-1] = f"--resume={argument}"
        else:
            joined.append(argument)
    return joined


def _paths(section: Any, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(section).items():
        yield prefix + name
        parts = [kind, *get_args(kind)]
        nested = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        if nested is not None:
            yield from _paths(nested, f"{prefix}{name}.")


def _nearest(message: str) -> str:
    """The key that was probably meant, where the message is about an unknown one."""
    signs = ("unrecognized arguments", "not accepted", "does not accept option")
    if not any(sign in message for sign in signs):
        return ""
    known = keys()
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    # Of a section that may be null, much more is said than the key.
    words = re.findall(r"Option '([\w.]+)' is not accepted", message)
    for word in words or re.findall(r"[\w.]+", message):
        close = difflib.get_close_matches(word, known, 1, 0.8)
        close = close or [
            last[name]
            for name in difflib.get_close_matches(word, last, 1, 0.8)
            if word not in last
        ]
        if close and close[0] != word:
            return f"\nDid you mean {close[0]}?"
    return ""
