"""Loss and metrics of one micro-batch: forward passes and the fused loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient
from jax.sharding import AbstractMesh, Mesh

from targetsft_jax.checkpoints.stored_teacher import TEACHER, StoredTeacher
from targetsft_jax.config.method import ResolvedMethod
from targetsft_jax.data.teacher_rows import INDEX, ROWS
from targetsft_jax.loss import MeshLayout, Mixture, fused_loss, label_logprob
from targetsft_jax.loss.second import Space
from targetsft_jax.models import decoder, lora, products
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.experts import Routing, auxiliary_loss, busiest_share
from targetsft_jax.models.lora import Lora
from targetsft_jax.models.sharded_attention import mesh_attend
from targetsft_jax.models.sharded_experts import mesh_experts
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import vocabulary
from targetsft_jax.parallel.gradient_rings import reduce_along_rings
from targetsft_jax.parallel.zigzag import zigzag_slots
from targetsft_jax.targets.policies import STUDENT
from targetsft_jax.training.state import Params

Metrics = dict[str, Array]
Batch = Mapping[str, Array]
States = tuple[Array, Array]
"""Hidden states [B, L, D] and the head [V, D] of a model."""

BASE = "base"
"""Name of the frozen argument with the base model of the adapters."""

DROPOUT_KEYS = "dropout_keys"
"""Name of the rows' dropout keys in the batch of a train step, [B, 2] uint32."""


@dataclass(frozen=True)
class Numerics:
    """Dtype, memory and kernel choices; the result changes by rounding only.

    Attributes:
        dtype: compute dtype of the forward passes.
        remat: rematerialisation policy of the student's layers.
        attention: attention kernel, one of `kernels.CHOICES`.
        loss_chunk: tokens per chunk of the loss, per device.
    """

    dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "auto"
    loss_chunk: int = 2048


@dataclass(frozen=True)
class StepSpec:
    """Static configuration of a train step.

    Attributes:
        student: architecture of the student.
        method: resolved method.
        frozen: frozen role that the step runs -> architecture.
        stored: teacher whose distributions are in the batch; None for a live one.
        teachers: weights of several live teachers and the space of their mixture;
            None for one teacher.
        teacher_rows: live teachers read rows of their own, which are in the batch (see
            `data.teacher_rows`).
        vocab_size: tokens of the tokenizer, without padding of the embedding.
        numerics: dtype, remat, attention kernel, loss chunk.
        lora: adapters over a frozen base; None: all parameters are trained.
        on_base: frozen roles equal to the base model, which share its arrays.
        vocab_group: neighbouring devices that share embedding and heads (see
            `parallel.vocabulary`); None: chosen by size.
        steps: optimizer steps of the run, which schedules of hyper-parameters read.
        seed: seed of the adapters' dropout.
        router_aux_loss_coef: weight of the load-balancing loss of the student's
            routers; None: that of its config.
        histograms: add the metrics `histogram_NAME` [BINS], shares of the target
            tokens (see `loss.histogram`).
    """

    student: DecoderConfig
    method: ResolvedMethod
    frozen: Mapping[str, DecoderConfig] = field(default_factory=dict)
    stored: StoredTeacher | None = None
    teachers: tuple[tuple[float, ...], Space] | None = None
    teacher_rows: bool = False
    vocab_size: int | None = None
    numerics: Numerics = Numerics()
    lora: Lora | None = None
    on_base: tuple[str, ...] = ()
    vocab_group: int | None = None
    router_aux_loss_coef: float | None = None
    histograms: bool = False
    steps: int | None = None
    seed: int = 0

    @property
    def frozen_arguments(self) -> tuple[str, ...]:
        """Names of the frozen parameters that the step takes as an argument."""
        separate = tuple(role for role in self.second if role not in self.on_base)
        return separate if self.lora is None else (BASE, *separate)

    def mixed(self, states: Mapping[str, States]) -> dict[str, Any]:
        """Second models of the loss by role, several teachers as one."""
        if self.teachers is None:
            return dict(states)
        weights, space = self.teachers
        roles = [role for role in states if role.startswith(TEACHER)]
        caps = [self.frozen[role].final_logit_softcap for role in roles]
        mixture = Mixture([states[role] for role in roles], weights, space, caps)
        return {TEACHER: mixture} | {
            role: model for role, model in states.items() if role not in roles
        }

    @property
    def second(self) -> dict[str, DecoderConfig]:
        """Frozen models whose hidden states the loss reads: live ones and stored."""
        stored = None if self.stored is None else self.stored.config
        return {**self.frozen, **({} if stored is None else {TEACHER: stored})}

    @property
    def logit_caps(self) -> dict[str, float | None]:
        """Role -> soft cap of its logits; None: no cap."""
        models = {STUDENT: self.student, **self.second}
        caps = {role: config.final_logit_softcap for role, config in models.items()}
        if self.teachers is not None:  # The mixture has those of its models.
            caps = {r: cap for r, cap in caps.items() if not r.startswith(TEACHER)}
        return caps

    def scheduled(self, step: Array) -> dict[str, Array]:
        """Scheduled hyper-parameters in optimizer step `step` of 1 …: [] f32 by name.

        Raises:
            ValueError: there is a schedule, and `steps` is not set.
        """
        schedules = self.method.schedules
        if schedules and self.steps is None:
            raise ValueError(
                f"target.{next(iter(schedules))} has a schedule and StepSpec.steps is "
                "None; expected the optimizer steps of the run"
            )
        return {key: x.value(step, self.steps or 1) for key, x in schedules.items()}


def loss_and_metrics(
    spec: StepSpec,
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Params],
    batch: Batch,
    scale: Array,
    scheduled: Mapping[str, Array] = MappingProxyType({}),
) -> tuple[Array, Metrics]:
    """Compute loss and metrics of one micro-batch: sums over its tokens × `scale`.

    Args:
        spec: static configuration of the step.
        mesh: (data, fsdp, context, tensor) mesh.
        params: trained parameters.
        frozen: parameters of the frozen arguments and of the policy.
        batch: arrays [B, L]; with dropout, also the keys of its rows.
        scale: [] f32, 1 / target tokens of the optimizer step.
        scheduled: hyper-parameters of this step by name, [] f32 (`StepSpec.scheduled`).

    Returns:
        The loss, [] f32, with the load-balancing loss of a mixture of experts, and the
        metrics by name, [] f32; the metric "loss" is that of the method alone.
    """
    placement = Placement.of(spec, mesh, batch["tokens"].size)
    slots = zigzag_slots(batch["tokens"].shape[1], mesh.shape["context"])
    trained = with_base(spec, params, frozen, batch.get(DROPOUT_KEYS), slots)
    student, routing = forward_routed(spec, placement, spec.student, trained, batch)
    roles = spec.frozen
    second = {r: frozen_states(spec, placement, r, frozen, batch) for r in roles}
    states = {STUDENT: student, **second}
    stored = {} if spec.stored is None else {TEACHER: spec.stored.second(frozen, batch)}
    inputs: dict[str, Any] = {
        **spec.mixed(second),
        **stored,
        **{name: batch[name] for name in spec.method.columns},
        **policy_columns(spec, placement, states, frozen, batch),
        **spec.method.hyper,
        # One entry per token: a hyper-parameter that is not constant has that form.
        **{key: jnp.full(batch["labels"].shape, x) for key, x in scheduled.items()},
    }
    loss, metrics = fused_loss(
        spec.method.method,
        *student,
        batch["labels"],
        weights=batch["loss_mask"].astype(jnp.float32) * scale,
        layout=placement.layout,
        chunk_size=spec.numerics.loss_chunk,
        vocab_size=spec.vocab_size,
        head_gradient=spec.lora is None,
        histograms=spec.histograms,
        logit_caps=spec.logit_caps,
        **inputs,
    )
    # Not a metric of a step: the pipeline makes no such label.
    del metrics["labels_outside"]
    metrics = {"loss": loss, **metrics}
    if routing is not None:
        # The share of the step's target tokens, so that the shares sum to 1.
        share = jnp.sum(batch["loss_mask"].astype(jnp.float32)) * scale
        auxiliary = share * auxiliary_loss(routing)
        weight = spec.router_aux_loss_coef
        if weight is None:
            weight = spec.student.router_aux_loss_coef
        loss = loss + weight * auxiliary
        metrics |= {
            "router_aux": auxiliary,
            "router_load": share * busiest_share(routing),
        }
    return loss, metrics


@dataclass(frozen=True)
class Placement:
    """Meshes of a micro-batch.

    Attributes:
        mesh: (data, fsdp, context, tensor) mesh.
        groups: the same with fsdp and context split into vocabulary groups.
    """

    mesh: Mesh
    groups: AbstractMesh

    @classmethod
    def of(cls, spec: StepSpec, mesh: Mesh, tokens: int) -> "Placement":
        """Choose the placement of a micro-batch of `tokens`, over all devices."""
        return cls(mesh, vocabulary_groups(spec, mesh, tokens))

    @property
    def layout(self) -> MeshLayout:
        """Sharding of tokens and heads in the fused loss."""
        return MeshLayout(
            self.groups,
            vocabulary.TOKENS,
            vocabulary.VOCABULARY,
            vocabulary.WIDTH,
            context=vocabulary.CONTEXT,
        )


def frozen_states(
    spec: StepSpec,
    placement: Placement,
    role: str,
    frozen: Mapping[str, Params],
    batch: Batch,
) -> States:
    """Run a frozen role: its states at the labels, and its head, constant in θ."""
    model = spec.frozen[role], frozen[BASE if role in spec.on_base else role]
    has_rows = spec.teacher_rows and role.startswith(TEACHER)
    own = {name: batch[theirs] for name, theirs in ROWS.items()} if has_rows else batch
    hidden, head = forward(spec, placement, *model, own, remat="none")
    if has_rows:
        hidden = meshes.take_tokens(hidden, batch[INDEX], placement.mesh)
    return stop_gradient((hidden, head))


def forward(
    spec: StepSpec,
    placement: Placement,
    config: DecoderConfig,
    params: Params,
    batch: Batch,
    *,
    remat: str | None = None,
) -> States:
    """Run one model: hidden states and head, as `forward_routed`."""
    return forward_routed(spec, placement, config, params, batch, remat=remat)[0]


def forward_routed(
    spec: StepSpec,
    placement: Placement,
    config: DecoderConfig,
    params: Params,
    batch: Batch,
    *,
    remat: str | None = None,
) -> tuple[States, Routing | None]:
    """Run one model: hidden states [B, L, D] and head [V, D], and its routing.

    Args:
        spec: static configuration of the step.
        placement: meshes of the micro-batch.
        config, params: model.
        batch: arrays [B, L].
        remat: rematerialisation policy; None: that of `spec`.
    """
    tokens, numerics, mesh = batch["tokens"], spec.numerics, placement.mesh
    is_trained = remat is None and spec.lora is None
    axes = decoder.logical_axes(config)["layers"]
    read = reduce_along_rings(axes, mesh, numerics.dtype) if is_trained else None
    sharding = meshes.tokens_over(mesh)
    hidden, routing = decoder.apply_routed(
        config,
        params,
        tokens,
        positions=batch["positions"],
        segment_ids=batch["segment_ids"],
        dtype=numerics.dtype,
        remat=numerics.remat if remat is None else remat,
        constrain=lambda x: jax.lax.with_sharding_constraint(x, sharding),
        embedded=vocabulary.lookup(
            params["embed"], tokens, placement.groups, numerics.dtype
        ),
        attend=mesh_attend(
            numerics.attention, config, mesh, tokens.shape[1], numerics.dtype
        ),
        mix=mesh_experts(config, mesh),
        multiply=products.multiply_on(meshes.platform(mesh), mesh.size),
        read=read,
    )
    return (hidden, decoder.head(params)), routing


def policy_columns(
    spec: StepSpec,
    placement: Placement,
    states: Mapping[str, States],
    frozen: Mapping[str, Params],
    batch: Batch,
) -> dict[str, Array]:
    """Compute the per-token inputs [B, L] of the policy; empty for most methods.

    Args:
        spec, placement, batch: see `forward`.
        states: hidden states and heads computed already; a snapshot or an average of
            the student runs here.
        frozen: parameters of the frozen arguments and of the policy.
    """

    def label_logprobs(name: str) -> Array:
        config = spec.frozen.get(name, spec.student)
        if name in states:
            model = states[name]
        else:
            params = stop_gradient(with_base(spec, frozen[name], frozen))
            model = forward(spec, placement, config, params, batch, remat="none")
        return label_logprob(
            *model,
            batch["labels"],
            mask=batch["loss_mask"],
            vocab_size=spec.vocab_size,
            logit_cap=config.final_logit_softcap,
            chunk_size=spec.numerics.loss_chunk,
            layout=placement.layout,
        )

    return spec.method.policy.columns(label_logprobs, batch)


def with_base(
    spec: StepSpec,
    params: Params,
    frozen: Mapping[str, Params],
    row_keys: Array | None = None,
    slots: np.ndarray | None = None,
) -> Params:
    """Attach adapters to their base; without adapters, return `params`.

    Args:
        spec, params, frozen: see `loss_and_metrics`.
        row_keys: keys of the adapters' dropout; None: no dropout.
        slots: slots of the tokens [L], with keys.
    """
    if spec.lora is None:
        return params
    return lora.attach(frozen[BASE], params, spec.lora, row_keys, slots)


def vocabulary_groups(spec: StepSpec, mesh: Mesh, tokens: int) -> AbstractMesh:
    """Split the mesh into groups of devices that share the vocabulary.

    The mesh is abstract: calls of cuDNN need a program whose shardings are all of the
    devices' mesh, and the groups are its devices in their order.

    Args:
        spec, mesh: see `loss_and_metrics`.
        tokens: tokens per micro-batch, over all devices.
    """
    group = spec.vocab_group or vocabulary.best_group(
        mesh,
        tokens // meshes.token_shards(mesh),
        spec.student.vocab_size,
        spec.student.hidden_size,
        sum(config.hidden_size for config in spec.second.values()),
        head_gradient=spec.lora is None,
    )
    return vocabulary.with_groups(mesh, group).abstract_mesh
