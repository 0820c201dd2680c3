"""The configuration tree of a run: one section per concern, one declaration per key."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.evaluation import EvaluationConfig, ValidationConfig
from targetsft_jax.config.method import ResolvedMethod, resolve
from targetsft_jax.config.roles import (
    DTYPES,
    FrozenConfig,
    RoleConfig,
    TeacherConfig,
    other_teachers,
)
from targetsft_jax.config.target import TargetConfig
from targetsft_jax.data.config import DataConfig
from targetsft_jax.keys import (
    Domain,
    at_least,
    between,
    key,
    more_than,
    one_of,
    section,
)
from targetsft_jax.models.kernels import CHOICES as ATTENTION_KERNELS
from targetsft_jax.models.lora import PROJECTIONS
from targetsft_jax.models.remat import REMAT_POLICIES
from targetsft_jax.targets.trajectory import MODES

VALIDATION_PREFIX = "validation_"
"""Prefix of metric names measured on held-out data."""

DEVICES = Domain("-1, or 1 or more", lambda size: size == -1 or size >= 1)


class ConfigError(UsageError):
    """An invalid configuration; the message names the key and the expected value."""


@section
class LoraConfig:
    """Low-rank adapters over the student, which is frozen (arXiv 2106.09685).

    The adapters are float32; B starts at zero, so training starts from the base model.
    """

    rank: int = key(16, "Rank r of the update B·A.", at_least(1, 2**16))
    alpha: float = key(
        32.0, "Scale: the update is (alpha / rank)·B·A.", more_than(0, 10**6)
    )
    targets: list[str] = key(
        lambda: list(PROJECTIONS),
        f"Adapted projections of every layer: some of {', '.join(PROJECTIONS)}.",
    )
    dropout: float = key(
        0.0,
        "Dropout on the input of each adapter, in training alone.",
        between(0, 1, closed="[)"),
    )


@section
class PolicyConfig:
    """Sources of the per-token inputs of PSFT, iw-SFT and PriFT."""

    old_logprob: str | None = key(
        None,
        "PSFT: `snapshot`, a copy of the student refreshed during the run, or `data`, "
        "the column old_logprob. null: snapshot; an error if the data has the column.",
    )
    refresh_every: int = key(8, "PSFT: optimizer steps between snapshots.", at_least(1))
    trajectory_weight: str | None = key(
        None,
        "iw-SFT: `current`, the student, or `ema`, its average, against the "
        "reference; or `data`, the column trajectory_weight. null: current; an error "
        "if the data has the column.",
    )
    reference_prob: str | None = key(
        None,
        "PriFT: `reference`, the frozen reference, or `data`, the column "
        "reference_prob. null: reference; an error if the data has the column.",
    )
    ema_decay: float = key(
        0.9,
        "iw-SFT: decay per optimizer step of the student's moving average.",
        between(0, 1, closed="[)"),
    )
    mode: str = key(
        "mean",
        "iw-SFT: aggregation of the log-ratios over a trajectory; `token`: none, each "
        "token has its own weight.",
        one_of(MODES),
    )
    temperature: float = key(
        1.0, "iw-SFT: factor on the aggregated log-ratio.", at_least(0, 10**6)
    )
    clip: list[float] = key(
        lambda: [0.0, 16.0], "iw-SFT: lower and upper bound of the weights."
    )


@section
class MeshConfig:
    """Mesh axis sizes and processes of the run."""

    data: int = key(
        -1,
        "Data-parallel devices, which split the rows of a batch; -1: all remaining.",
        DEVICES,
    )
    fsdp: int = key(
        1,
        "Devices that shard the parameters and split the rows; -1: all remaining.",
        DEVICES,
    )
    context: int = key(
        1,
        "Devices that share the tokens of each row, for rows too long for one; they "
        "shard the parameters, too. -1: all remaining.",
        DEVICES,
    )
    tensor: int = key(
        1,
        "Devices that shard heads, MLP and vocabulary; -1: all remaining.",
        DEVICES,
    )
    vocab_group: int | None = key(
        None,
        "Neighbouring devices of the fsdp and context axes that share the vocabulary "
        "matrices and exchange their tokens: a divisor of context, or context times a "
        "divisor of fsdp. null: the size with the least traffic and memory.",
        at_least(1),
    )
    cpu_devices: int | None = key(
        None,
        "Virtual CPU devices per process, to test a mesh without accelerators.",
        at_least(1, 4096),
    )
    coordinator: str | None = key(
        None,
        "HOST:PORT of the primary process of a multi-process run; `auto` on TPU pods, "
        "SLURM and MPI. null: JAX_COORDINATOR_ADDRESS if set, else one process.",
    )
    processes: int | None = key(
        None,
        "Number of processes, with a HOST:PORT; null: JAX_NUM_PROCESSES.",
        at_least(1, 2**20),
    )
    process: int | None = key(
        None, "Index of this process, from 0; null: JAX_PROCESS_ID.", at_least(0)
    )
    join_seconds: int = key(
        300, "Seconds to wait for the other processes at start-up.", at_least(1, 10**6)
    )
    heartbeat_seconds: int = key(
        10,
        "Seconds without a heartbeat after which a process counts as dead.",
        at_least(1, 10**6),
    )

    def processes_of_run(self) -> dict[str, Any]:
        """Return the arguments of `parallel.launch.launch`: all keys but the axes."""
        axes = ("data", "fsdp", "context", "tensor", "vocab_group")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in axes}


@section
class TrainConfig:
    """Optimizer, schedule, batch and checkpoint cadence."""

    steps: int | None = key(
        None,
        "Optimizer steps; null: `epochs` passes over the rows. A finished run is "
        "extended by a larger number.",
        at_least(1),
        resumable=True,
    )
    epochs: float = key(
        1.0,
        "Passes over the data if `steps` is null.",
        more_than(0, 10**6),
        resumable=True,
    )
    batch_size: int = key(
        32,
        "Rows of `data.max_length` tokens per optimizer step, over all devices.",
        at_least(1, 2**24),
    )
    accumulation_steps: int = key(
        1, "Gradient accumulation: micro-batches per optimizer step.", at_least(1)
    )
    learning_rate: float = key(5e-5, "Peak of the cosine schedule.", more_than(0, 100))
    warmup_ratio: float = key(
        0.1,
        "Linear warm-up, as a share of all steps, rounded up.",
        between(0, 1, closed="[)"),
    )
    final_learning_rate_ratio: float = key(
        0.0, "Final learning rate as a share of the peak.", at_least(0, 100)
    )
    weight_decay: float = key(
        0.01, "Weight decay of AdamW; none for norms and biases.", at_least(0, 100)
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
    remat: str | None = key(
        None,
        "Rematerialisation: what the layers save for the backward pass, from nothing "
        "(full) over outputs of attention, of its block and of all products with "
        "weights (dots) to everything (none); offload: dots, in host memory. null: "
        "dots on the CPU, else none.",
        one_of(REMAT_POLICIES),
        resumable=True,
    )
    attention: str = key(
        "auto",
        "Attention kernel; `auto`: the fastest one that supports devices and model: "
        "splash on TPUs, cudnn or pallas_gpu on GPUs, blockwise on the CPU, else xla. "
        "cudnn_packed: less memory for long rows on Hopper and later GPUs; not yet run "
        "on one.",
        one_of(ATTENTION_KERNELS),
        resumable=True,
    )
    router_aux_loss_coef: float | None = key(
        None,
        "Weight of the load-balancing loss of a student with experts; null: that of "
        "its config.json.",
        at_least(0),
    )
    loss_chunk: int | None = key(
        None,
        "Tokens per chunk of the fused loss; null: 512 on the CPU, else 2048.",
        at_least(1, 2**24),
        resumable=True,
    )
    log_every: int = key(
        10,
        "Optimizer steps between printed lines; metrics.jsonl has every step.",
        at_least(1),
        resumable=True,
    )
    save_every: int = key(
        100,
        "Optimizer steps between checkpoints; the last step is always saved.",
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
        2, "Number of newest checkpoints to retain.", at_least(1), resumable=True
    )
    keep_every: int | None = key(
        None,
        "Also retain checkpoints whose step is a multiple of this.",
        at_least(1),
        resumable=True,
    )
    keep_best: str | None = key(
        None,
        "Also retain the checkpoint with the lowest value of this metric, such as nll. "
        "For a held-out metric, such as validation_nll, each step that measures it "
        "is saved.",
        resumable=True,
    )
    max_skipped_steps: int = key(
        10,
        "Stop after this many consecutive skipped steps (non-finite loss or gradient).",
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
        64, "Steps in the running median.", at_least(1, 10**6), resumable=True
    )


@section
class LogConfig:
    """Outputs in addition to metrics.jsonl and TensorBoard event files."""

    wandb: str | None = key(
        None,
        "Weights & Biases project; needs the extra `wandb`.",
        Domain(
            "a name of at most 128 characters without any of / \\ # ? % :",
            lambda name: re.fullmatch(r"[^/\\#?%:\x00-\x1f]{1,128}", name) is not None,
        ),
    )
    profile_from: int | None = key(
        None,
        "First profiled step; the trace is in RUN/profile. null: no profile.",
        at_least(1),
    )
    profile_steps: int = key(3, "Number of profiled steps.", at_least(1, 10**4))


@section
class InspectConfig:
    """The inspection page of a run: its first rows at the start and at the end."""

    rows: int = key(
        0,
        "Rows of RUN/inspect.html, written when the run ends: what each method "
        "teaches on them. 0: no page.",
        at_least(0, 10**6),
    )


@section
class Config:
    """One run: one student, trained by one method."""

    run_dir: str = key(
        "runs/default",
        "Run directory: metrics, checkpoints, exported model; local, or "
        "gs://BUCKET/PATH.",
        resumable=True,
    )
    checkpoint_dir: str | None = key(
        None,
        "Folder of the checkpoints, local or gs://BUCKET/PATH. null: that of the run's "
        "last session, or RUN/checkpoints.",
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
        "Cache of built models, tokens, packed rows and compiled programs; local, or "
        "gs://BUCKET/PATH.",
        resumable=True,
    )
    student: RoleConfig = key(RoleConfig, "The trained model.")
    teacher: TeacherConfig = key(
        TeacherConfig, "The frozen teacher, for methods that need one."
    )
    reference: FrozenConfig = key(
        FrozenConfig, "The frozen reference; without a path, the initial student."
    )
    lora: LoraConfig | None = key(
        None, "Train low-rank adapters; null: train all parameters."
    )
    target: TargetConfig = key(TargetConfig, "Method and hyper-parameters.")
    policy: PolicyConfig = key(PolicyConfig, "Policies of PSFT, iw-SFT and PriFT.")
    data: DataConfig = key(DataConfig, "Training data.")
    train: TrainConfig = key(
        TrainConfig, "Optimizer, schedule, batch and checkpoint cadence."
    )
    mesh: MeshConfig = key(MeshConfig, "Device mesh and processes.", resumable=True)
    evaluation: EvaluationConfig = key(
        EvaluationConfig, "Average@k on held-out problems.", resumable=True
    )
    validation: ValidationConfig = key(
        ValidationConfig, "Held-out loss during training."
    )
    log: LogConfig = key(LogConfig, "Additional outputs.", resumable=True)
    inspect: InspectConfig = key(
        InspectConfig, "The inspection page of the run.", resumable=True
    )

    @functools.cached_property
    def method(self) -> ResolvedMethod:
        """Resolved method: hyper-parameters, roles, columns and policy.

        Raises:
            ConfigError: a key of `target` or `policy` cannot be used.
        """
        try:
            return resolve(dataclasses.asdict(self.target), self.policy)
        except ValueError as error:
            raise ConfigError(str(error)) from None


def role_config(config: Config, role: str) -> RoleConfig:
    """Return the section of a role: "student", "reference" or one of `live_roles`."""
    sections: Mapping[str, RoleConfig] = {
        **other_teachers(config),
        "student": config.student,
        "teacher": config.teacher,
        "reference": config.reference,
    }
    return sections[role]
