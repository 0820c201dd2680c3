"""The configuration tree of a run: one section per concern, one declaration per key."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.method import ResolvedMethod, resolve
from targetsft_jax.config.target import TargetConfig
from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.keys import at_least, between, key, more_than, one_of, section
from targetsft_jax.models.decoder import REMAT_POLICIES
from targetsft_jax.models.kernels import CHOICES as ATTENTION_KERNELS
from targetsft_jax.models.lora import PROJECTIONS
from targetsft_jax.targets.trajectory import MODES

VALIDATION_PREFIX = "validation_"
"""Prefix of the names of metrics of held-out data."""

DTYPES = one_of(("float32", "bfloat16"))


class ConfigError(UsageError):
    """A configuration that cannot be run, in one readable message."""


@section
class BuildConfig:
    """A small start model, trained once by plain SFT on synthetic problems and cached.

    It starts from random weights and has the byte tokenizer.
    """

    hidden_size: int = key(256, "Width of the model.", at_least(1))
    intermediate_size: int = key(512, "Width of the MLP.", at_least(1))
    num_layers: int = key(2, "Decoder layers.", at_least(1))
    num_heads: int = key(8, "Query heads.", at_least(1))
    num_kv_heads: int = key(4, "Key and value heads.", at_least(1))
    data: SyntheticConfig = key(SyntheticConfig, "The problems that it is trained on.")
    max_length: int = key(256, "Tokens per row.", at_least(2))
    steps: int = key(300, "Optimizer steps of plain SFT.", at_least(1))
    batch_size: int = key(32, "Rows per optimizer step.", at_least(1))
    learning_rate: float = key(1.5e-3, "Peak learning rate.", more_than(0))
    seed: int = key(1, "Seed of the weights and of the data order.", at_least(0))


@section
class RoleConfig:
    """A model: a Hugging Face folder or hub id, or a small one that is built."""

    path: str | None = key(
        None,
        "Local folder or hub id (safetensors only), or a run directory or checkpoint "
        "of this package.",
    )
    build: BuildConfig | None = key(
        None, "A small model, made on first use and cached; excludes `path`."
    )
    dtype: str | None = key(
        None,
        "Parameter dtype. Default: float32 for the student; bfloat16 for frozen roles "
        "and for the base of adapters on accelerators, float32 on the CPU.",
        DTYPES,
    )


@section
class LoraConfig:
    """Low-rank adapters over the student, which is frozen (arXiv 2106.09685).

    The adapters are float32; B starts at zero, so training starts from the base model.
    """

    rank: int = key(16, "Columns of A and rows of B.", at_least(1))
    alpha: float = key(32.0, "Scale: B·A counts alpha / rank times.", more_than(0))
    targets: list[str] = key(
        lambda: list(PROJECTIONS),
        f"Projections of every layer that have adapters: some of "
        f"{', '.join(PROJECTIONS)}.",
    )
    dropout: float = key(
        0.0, "Dropout on the input of the adapters; only 0 is supported."
    )


@section
class PolicyConfig:
    """Sources of the old policy of PSFT and of the trajectory weights of iw-SFT."""

    old_logprob: str | None = key(
        None,
        "PSFT: `snapshot` of the student, refreshed during the run, or `data`, the "
        "column of that name. null: snapshot; refused if the data has the column.",
    )
    refresh_every: int = key(
        8, "PSFT: optimizer steps between two snapshots.", at_least(1)
    )
    trajectory_weight: str | None = key(
        None,
        "iw-SFT: `current` policy or its `ema` against the reference, or `data`, the "
        "column of that name. null: current; refused if the data has the column.",
    )
    ema_decay: float = key(
        0.9,
        "iw-SFT: decay per optimizer step of the average of the student.",
        between(0, 1, closed="[)"),
    )
    mode: str = key(
        "mean",
        "iw-SFT: aggregation of the log-ratios of a trajectory; `token` weighs each "
        "token by its own.",
        one_of(MODES),
    )
    temperature: float = key(
        1.0, "iw-SFT: factor on the aggregated log-ratio.", at_least(0)
    )
    clip: list[float] = key(lambda: [0.0, 16.0], "iw-SFT: smallest and largest weight.")


@section
class MeshConfig:
    """Sizes of the mesh axes, and the processes of the run."""

    data: int = key(
        -1, "Devices that split the rows of a batch; -1: all remaining ones."
    )
    fsdp: int = key(
        1, "Devices that split the rows of a batch and the parameters; -1: all others."
    )
    tensor: int = key(
        1, "Devices that split heads, MLP and vocabulary; -1: all remaining ones."
    )
    vocab_group: int | None = key(
        None,
        "Neighbouring devices of the fsdp axis that share the vocabulary matrices and "
        "exchange their tokens; a divisor of fsdp. null: the size with the least "
        "traffic and memory.",
        at_least(1),
    )
    cpu_devices: int | None = key(
        None,
        "Virtual CPU devices per process, to try a mesh without accelerators.",
        at_least(1),
    )
    coordinator: str | None = key(
        None,
        "HOST:PORT of the primary process of a multi-process run; `auto` on TPU pods, "
        "SLURM and MPI. null: JAX_COORDINATOR_ADDRESS if set, else one process.",
    )
    processes: int | None = key(
        None,
        "Number of processes, with a HOST:PORT; null: JAX_NUM_PROCESSES.",
        at_least(1),
    )
    process: int | None = key(
        None, "Index of this process, from 0; null: JAX_PROCESS_ID.", at_least(0)
    )
    join_seconds: int = key(
        300, "Seconds to wait for the other processes at start-up.", at_least(1)
    )
    heartbeat_seconds: int = key(
        10, "Seconds of silence after which a process counts as dead.", at_least(1)
    )

    def processes_of_run(self) -> dict[str, Any]:
        """The keys that `parallel.launch.launch` takes: all but the axes."""
        axes = ("data", "fsdp", "tensor", "vocab_group")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in axes}


@section
class TrainConfig:
    """Optimizer, schedule, batch and checkpoint cadence."""

    steps: int | None = key(
        None, "Optimizer steps; null: `epochs` passes over the rows.", at_least(1)
    )
    epochs: float = key(1.0, "Passes over the data if `steps` is null.", more_than(0))
    batch_size: int = key(
        32,
        "Rows of `data.max_length` tokens per optimizer step, over all devices.",
        at_least(1),
    )
    accumulation_steps: int = key(
        1, "Gradient accumulation: micro-batches per optimizer step.", at_least(1)
    )
    learning_rate: float = key(5e-5, "Peak of the cosine schedule.", more_than(0))
    warmup_ratio: float = key(
        0.1, "Share of the steps in linear warm-up.", between(0, 1, closed="[)")
    )
    final_learning_rate_ratio: float = key(
        0.0, "Final learning rate as a share of the peak.", at_least(0)
    )
    weight_decay: float = key(
        0.01, "Weight decay of AdamW; norms and biases have none.", at_least(0)
    )
    beta1: float = key(
        0.9, "Decay of the first moment of AdamW.", between(0, 1, closed="[)")
    )
    beta2: float = key(
        0.95, "Decay of the second moment of AdamW.", between(0, 1, closed="[)")
    )
    clip_norm: float = key(
        1.0,
        "Clip the global gradient norm to this value; 0 disables clipping.",
        at_least(0),
    )
    dtype: str | None = key(
        None,
        "Compute dtype. Default: bfloat16 on accelerators, float32 on the CPU.",
        DTYPES,
    )
    remat: str = key(
        "none",
        "Rematerialisation of the layers in the backward pass.",
        one_of(REMAT_POLICIES),
        resumable=True,
    )
    attention: str = key(
        "auto",
        "Attention kernel; `auto` is the fastest that devices and model allow: splash "
        "on TPUs, cudnn or pallas_gpu on GPUs, xla everywhere.",
        one_of(ATTENTION_KERNELS),
        resumable=True,
    )
    loss_chunk: int | None = key(
        None,
        "Tokens per chunk of the fused loss; null: 512 on the CPU, else 2048.",
        at_least(1),
        resumable=True,
    )
    log_every: int = key(
        10,
        "Steps between printed lines; metrics.jsonl has every step.",
        at_least(1),
        resumable=True,
    )
    save_every: int = key(
        100,
        "Steps between checkpoints; the last step always has one.",
        at_least(1),
        resumable=True,
    )
    save_minutes: float | None = key(
        None,
        "Minutes between checkpoints, in addition to `save_every`.",
        more_than(0),
        resumable=True,
    )
    max_to_keep: int = key(
        2, "Newest checkpoints that are retained.", at_least(1), resumable=True
    )
    keep_every: int | None = key(
        None,
        "Retain the checkpoints of steps that are a multiple of this.",
        at_least(1),
        resumable=True,
    )
    keep_best: str | None = key(
        None,
        "Metric, such as nll, whose lowest checkpoint is retained too. With a metric "
        "of held-out data, such as validation_nll, each step that measures it is "
        "saved.",
        resumable=True,
    )
    max_skipped_steps: int = key(
        10,
        "Consecutive steps with a non-finite loss or gradient, which change nothing, "
        "before the run stops.",
        at_least(1),
        resumable=True,
    )
    spike_deviations: float = key(
        8.0,
        "Report a spike when the loss exceeds the running median by this many robust "
        "deviations; 0 disables the report.",
        at_least(0),
        resumable=True,
    )
    spike_window: int = key(
        64, "Steps in the running median.", at_least(1), resumable=True
    )


@section
class EvaluationConfig(SamplingSettings):
    """Average@k on held-out problems, before and after training."""

    problems: int = key(0, "Held-out problems; 0 skips the evaluation.", at_least(0))
    include_teacher: bool = key(
        False, "Evaluate the teacher too: the ceiling of what it can teach."
    )
    data: DataConfig | None = key(
        None,
        "Problems with gold answers; null: the held-out split of synthetic problems.",
    )


@section
class ValidationConfig:
    """Held-out loss during training."""

    examples: int = key(
        0, "Examples of `data` that are held out of training.", at_least(0)
    )
    data: DataConfig | None = key(
        None, "Other held-out examples instead of those.", resumable=True
    )
    every: int = key(
        100,
        "Optimizer steps between measurements; the last step always has one.",
        at_least(1),
        resumable=True,
    )


@section
class LogConfig:
    """Further outputs beside metrics.jsonl and TensorBoard event files."""

    wandb: str | None = key(
        None, "Project at Weights & Biases; needs the extra `wandb`."
    )
    profile_from: int | None = key(
        None, "First step of a profile in RUN/profile; null: no profile.", at_least(1)
    )
    profile_steps: int = key(3, "Steps in the profile.", at_least(1))


@section
class Config:
    """One run: one student, trained by one method."""

    run_dir: str = key(
        "runs/default",
        "Directory of metrics, checkpoints and the exported model.",
        resumable=True,
    )
    resume: bool = key(
        True,
        "Resume from the newest checkpoint of the run directory.",
        resumable=True,
    )
    seed: int = key(0, "Seed of the data order and of sampling.", at_least(0))
    cache_dir: str = key(
        "~/.cache/targetsft_jax",
        "Directory of built models, tokens and packed rows.",
        resumable=True,
    )
    student: RoleConfig = key(RoleConfig, "The model that is trained.")
    teacher: RoleConfig = key(
        RoleConfig, "The frozen teacher, for methods that need one."
    )
    reference: RoleConfig = key(
        RoleConfig, "The frozen reference; without a path, the student at its start."
    )
    lora: LoraConfig | None = key(
        None, "Train adapters over the student; null: train all parameters."
    )
    target: TargetConfig = key(TargetConfig, "The method and its hyper-parameters.")
    policy: PolicyConfig = key(
        PolicyConfig, "Policies that PSFT and iw-SFT compare the student with."
    )
    data: DataConfig = key(DataConfig, "The training data.")
    train: TrainConfig = key(
        TrainConfig, "Optimizer, schedule, batch and checkpoint cadence."
    )
    mesh: MeshConfig = key(
        MeshConfig, "The device mesh and the processes.", resumable=True
    )
    evaluation: EvaluationConfig = key(
        EvaluationConfig, "Average@k on held-out problems.", resumable=True
    )
    validation: ValidationConfig = key(
        ValidationConfig, "Held-out loss during training."
    )
    log: LogConfig = key(LogConfig, "Further outputs of a run.", resumable=True)

    @functools.cached_property
    def method(self) -> ResolvedMethod:
        """The method with its hyper-parameters, roles, columns and policy.

        Raises:
            ConfigError: naming the key of `target` or `policy` that cannot be used.
        """
        try:
            return resolve(dataclasses.asdict(self.target), self.policy)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def role_config(config: Config, role: str) -> RoleConfig:
    """The section of a role by its name."""
    sections: Mapping[str, RoleConfig] = {
        "student": config.student,
        "teacher": config.teacher,
        "reference": config.reference,
    }
    return sections[role]
