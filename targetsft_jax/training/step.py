"""The one SPMD program: student, teacher and reference in a single jitted step.

    step(state, frozen, batch) -> state, metrics

All models are arguments, sharded by the same rules; frozen ones run under
stop-gradient and only their hidden states meet the student's, in the fused loss. The
loss is a sum over target tokens divided once by the global number of them, so that
micro-batches, devices and packing do not change it beyond rounding.

Policies that training changes itself, such as PSFT's old one, are part of the state
(`targets.policies`): they run as frozen models do, in the same pass over the data.

With low-rank adapters (`StepSpec.lora`) the state has only them, and the student's
base is one more frozen argument, `frozen[BASE]`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.lax import stop_gradient
from jax.sharding import Mesh, NamedSharding

from targetsft_jax.loss import MeshLayout, fused_loss, label_logprob
from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.models.sharded_attention import mesh_attend
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules, vocabulary
from targetsft_jax.targets.policies import FROM_DATA, STUDENT, Held, Policy

Params = dict[str, Any]
Metrics = dict[str, Array]

BASE = "base"
"""The frozen argument that adapters are trained over."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What training changes: the optimizer step [] int32, parameters, moments.

    `held` has further parameters by name, those of its policy; most methods have none.
    """

    step: Array
    params: Params
    optimizer: Any
    held: Held = field(default_factory=dict)


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The state as the plain trees that a checkpoint stores."""
    optimizer = {"step": state.step, "moments": state.optimizer}
    if state.held:
        optimizer["held"] = state.held
    return {"params": state.params, "optimizer": optimizer}


def state_of(arrays: Mapping[str, Any]) -> TrainState:
    """The state of a checkpoint's plain trees; inverse of `arrays_of`."""
    optimizer = arrays["optimizer"]
    return TrainState(
        optimizer["step"],
        arrays["params"],
        optimizer["moments"],
        optimizer.get("held", {}),
    )


@dataclass(frozen=True)
class StepSpec:
    """All that is static in a step.

    Attributes:
        student: its architecture.
        frozen: architecture of each frozen role ("teacher", "reference") that the
            method reads.
        method: name of the method.
        hyper: its hyper-parameters.
        columns: per-token inputs that come with the batch.
        vocab_size: real vocabulary, shared by all roles.
        dtype: of the forward passes.
        remat: recomputation policy of the student's layers.
        attention: kernel, one of `kernels.CHOICES`.
        loss_chunk: tokens in a chunk of the loss, on each device.
        vocab_group: devices of the fsdp axis that share embedding and heads (see
            `parallel.vocabulary`); chosen by size when None.
        lora: the adapters that are trained over a frozen base; None trains all.
        on_base: frozen roles that are the base itself, without adapters: they read
            its arrays and have none of their own.
        policy: what makes the per-token inputs that do not come with the batch.
        histograms: whether the metrics have `histogram_NAME` [BINS] too, shares of the
            target tokens (see `loss.histogram`).
    """

    student: DecoderConfig
    frozen: Mapping[str, DecoderConfig] = field(default_factory=dict)
    method: str = "sft"
    hyper: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    vocab_size: int | None = None
    dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "auto"
    loss_chunk: int = 2048
    vocab_group: int | None = None
    lora: Lora | None = None
    on_base: tuple[str, ...] = ()
    policy: Policy = FROM_DATA
    histograms: bool = False

    @property
    def frozen_arguments(self) -> tuple[str, ...]:
        """Names of the parameters that the step is given beside its state."""
        own = tuple(role for role in self.frozen if role not in self.on_base)
        return own if self.lora is None else (BASE, *own)


def make_train_step(
    spec: StepSpec,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    places: TrainState,
) -> Callable[[TrainState, Mapping[str, Params], Mapping[str, Array]], Any]:
    """The jitted step; it consumes (donates) its state.

    Args:
        spec: what is static.
        optimizer: an optax transformation.
        mesh: the (data, fsdp, tensor) mesh.
        places: where the state lies (`state_shardings`); it stays there.

    Returns:
        (state, frozen, batch) -> (state, metrics), where `frozen` has the parameters
        that `spec.frozen_arguments` names and `batch` has [A, B, L] arrays: A
        micro-batches of B rows. Metrics are [] float32: means over the step's target
        tokens, and `grad_norm` before clipping, `target_tokens`, `tokens` (not padding)
        and `skipped` (1 where loss or gradient were not finite and nothing was
        changed).
    """

    def step(
        state: TrainState, frozen: Mapping[str, Params], batch: Mapping[str, Array]
    ) -> tuple[TrainState, Metrics]:
        targets = jnp.sum(batch["loss_mask"].astype(jnp.float32))
        held = spec.policy.before(state.step, state.params, state.held)
        gradients, metrics = _accumulate(
            spec,
            mesh,
            state.params,
            {**frozen, **held},
            batch,
            1 / jnp.maximum(targets, 1),
        )
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        after = TrainState(
            state.step + 1, params, moments, spec.policy.after(params, held)
        )
        # A step that is not finite changes nothing but the count, and what follows
        # from the count.
        before = TrainState(state.step + 1, state.params, state.optimizer, held)
        chosen = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, before)
        return chosen, metrics | {
            "grad_norm": norm,
            "target_tokens": targets,
            "tokens": jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32)),
            "skipped": 1 - finite.astype(jnp.float32),
        }

    # The state leaves as it came: the second step must not compile again.
    whole = meshes.replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, whole))


def loss_and_metrics(
    spec: StepSpec,
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Params],
    batch: Mapping[str, Array],
    scale: Array,
) -> tuple[Array, Metrics]:
    """Loss and metrics of one micro-batch [B, L], each a sum over tokens · scale.

    `frozen` has what the policy holds too.
    """
    place = NamedSharding(mesh, meshes.ROWS)
    groups = vocabulary_groups(spec, mesh, batch["tokens"].size)

    def constrain(x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, place)

    def forward(config: DecoderConfig, params: Params, remat: str) -> tuple[Any, Any]:
        hidden = decoder.apply(
            config,
            params,
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            dtype=spec.dtype,
            remat=remat,
            constrain=constrain,
            embedded=vocabulary.lookup(
                params["embed"], batch["tokens"], groups, spec.dtype
            ),
            attend=mesh_attend(
                spec.attention, config, mesh, batch["tokens"].shape[1], spec.dtype
            ),
        )
        return hidden, decoder.head(params)

    def whole(params: Params) -> Params:
        if spec.lora is None:
            return params
        return lora.attach(frozen[BASE], params, spec.lora)

    hidden, head = forward(spec.student, whole(params), spec.remat)
    given = {role: BASE if role in spec.on_base else role for role in spec.frozen}
    second = {
        role: stop_gradient(forward(config, frozen[given[role]], "none"))
        for role, config in spec.frozen.items()
    }
    layout = MeshLayout(
        groups, vocabulary.TOKENS, vocabulary.VOCABULARY, vocabulary.WIDTH
    )

    def logprob(name: str) -> Array:
        if name in second:
            config, states = spec.frozen[name], second[name]
        elif name == STUDENT:
            config, states = spec.student, (hidden, head)
        else:
            config = spec.student
            states = forward(config, stop_gradient(whole(frozen[name])), "none")
        return label_logprob(
            *states,
            batch["labels"],
            mask=batch["loss_mask"],
            vocab_size=spec.vocab_size,
            logit_cap=config.final_logit_softcap,
            chunk_size=spec.loss_chunk,
            layout=layout,
        )

    loss, metrics = fused_loss(
        spec.method,
        hidden,
        head,
        batch["labels"],
        weights=batch["loss_mask"].astype(jnp.float32) * scale,
        layout=layout,
        chunk_size=spec.loss_chunk,
        vocab_size=spec.vocab_size,
        head_gradient=spec.lora is None,
        histograms=spec.histograms,
        logit_caps={
            "student": spec.student.final_logit_softcap,
            **{
                role: config.final_logit_softcap for role, config in spec.frozen.items()
            },
        },
        **second,
        **{name: batch[name] for name in spec.columns},
        **spec.policy.columns(logprob, batch),
        **spec.hyper,
    )
    return loss, {"loss": loss, **metrics}


def vocabulary_groups(spec: StepSpec, mesh: Mesh, tokens: int) -> Mesh:
    """The mesh with its fsdp axis cut into groups that share the vocabulary.

    `tokens` are those of a micro-batch, over all devices.
    """
    group = spec.vocab_group or vocabulary.best_group(
        mesh,
        tokens // meshes.row_shards(mesh),
        spec.student.vocab_size,
        spec.student.hidden_size,
        sum(config.hidden_size for config in spec.frozen.values()),
        head_gradient=spec.lora is None,
    )
    return vocabulary.with_groups(mesh, group)


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    places: TrainState,
    policy: Policy = FROM_DATA,
) -> TrainState:
    """The state at step 0, placed; moments lie where their parameters lie.

    With a policy the state holds what that starts from.
    """
    params = jax.device_put(params, places.params)
    moments = jax.jit(optimizer.init, out_shardings=places.optimizer)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), places.step)
    held = jax.jit(policy.start, out_shardings=places.held)(params)
    return TrainState(step, params, moments, held)


def state_shardings(
    config: DecoderConfig,
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    adapters: Lora | None = None,
    policy: Policy = FROM_DATA,
) -> TrainState:
    """A sharding for every array of the state; `params` may be abstract.

    They are the model's, or its adapters' where these are what is trained. What a
    policy holds lies as they do.
    """
    axes = (
        decoder.logical_axes(config)
        if adapters is None
        else lora.logical_axes(config, adapters)
    )
    of_params = rules.shardings(axes, params, mesh)
    whole = meshes.replicated(mesh)
    of_moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, place: place,
        jax.eval_shape(optimizer.init, params),
        of_params,
        transform_non_params=lambda _: whole,
    )
    held = dict.fromkeys(policy.held, of_params)
    return TrainState(whole, of_params, of_moments, held)  # type: ignore[arg-type]


def _accumulate(
    spec: StepSpec,
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Params],
    batch: Mapping[str, Array],
    scale: Array,
) -> tuple[Params, Metrics]:
    """Gradients and metrics summed over the micro-batches [A, ...], in float32."""

    def one(micro: Mapping[str, Array]) -> tuple[Params, Metrics]:
        def loss(params: Params) -> tuple[Array, Metrics]:
            return loss_and_metrics(spec, mesh, params, frozen, micro, scale)

        gradients, metrics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), metrics

    if batch["tokens"].shape[0] == 1:
        return one({name: x[0] for name, x in batch.items()})

    def add(total: Any, micro: Mapping[str, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(micro)), None

    # From zeros, so that the program has the forward and backward passes once.
    first = {name: x[0] for name, x in batch.items()}
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, first)
    )
    return jax.lax.scan(add, zeros, batch)[0]
