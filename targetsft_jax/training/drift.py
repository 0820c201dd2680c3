"""Drift of int8 models: changes from their unquantised weights, on the first rows.

Each int8 role runs twice over the first micro-batch, unquantised and quantised. Then
the method of the run is evaluated at the initial student with either, token by token.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.config.roles import INT8, FrozenConfig, role_key
from targetsft_jax.config.schema import Config, ConfigError, role_config
from targetsft_jax.data.examples import MASK
from targetsft_jax.loss.second import capped_logits, recipe_of, second_logits
from targetsft_jax.loss.tile import Columns
from targetsft_jax.models import decoder
from targetsft_jax.models.int8 import int8_params
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import processes
from targetsft_jax.parallel.zigzag import in_slot_order
from targetsft_jax.storage import atomic, json_file
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.targets.api import target
from targetsft_jax.targets.policies import STUDENT
from targetsft_jax.targets.top_k import TopK
from targetsft_jax.training.fit import TrainingData, total_steps
from targetsft_jax.training.micro_batch import (
    TEACHER,
    Batch,
    Placement,
    States,
    StepSpec,
    forward,
    frozen_states,
    policy_columns,
)
from targetsft_jax.training.session import Session
from targetsft_jax.training.state import Params

TOKENS = 1024
"""Trained tokens that are measured, evenly spaced in the micro-batch."""

_CHUNK = 64
"""Tokens whose logits [tokens, V] exist at a time."""


@dataclass(frozen=True)
class Drift:
    """Changes by int8, as means over trained tokens.

    Attributes:
        tokens: number of tokens.
        kl: role -> KL(unquantised || int8) in nats.
        label_prob: role -> |change of p_y|.
        method: name of the run's method.
        gamma: |change of γ|.
        gradient: Σ|change of the logit gradient| / Σ|logit gradient|.
    """

    tokens: int
    kl: Mapping[str, float]
    label_prob: Mapping[str, float]
    method: str
    gamma: float
    gradient: float

    def lines(self) -> Iterator[str]:
        """Lines for the start of a run."""
        for role, kl in self.kl.items():
            yield (
                f"int8     {role}: KL from its unquantised weights {kl:.3g} nats, "
                f"|change of p_y| {self.label_prob[role]:.3g}"
            )
        yield (
            f"         {self.method}: |change of γ| {self.gamma:.3g}, logit gradient "
            f"changed by {self.gradient:.2%}; means over {self.tokens:,} trained tokens"
        )


def check_drift(session: Session, run_dir: RunDir) -> None:
    """Measure the drift of int8 roles, print it, and refuse one above its limit.

    It is stored in the run directory, and not measured again by a resumed run.

    Raises:
        ConfigError: the KL of a role is above its `max_drift`, or is not a number.
    """
    roles = measured_roles(session.config, session.spec)
    if not roles:
        return
    key = _key(session)
    drift = _read(run_dir, key)
    if drift is None:
        drift = measure_drift(session, roles)
        if processes.is_primary():
            text = json.dumps({"key": key, **asdict(drift)}, indent=2) + "\n"
            atomic.write_text(run_dir.drift, text)
    for line in drift.lines():
        print(line)
    for role in roles:
        _check_limit(session.config, role, drift)


def measured_roles(config: Config, spec: StepSpec) -> tuple[str, ...]:
    """Int8 roles of the step with a limit of their drift."""
    sections = {role: role_config(config, role) for role in spec.frozen}
    return tuple(
        role
        for role, section in sections.items()
        if isinstance(section, FrozenConfig)
        and section.dtype == INT8
        and section.max_drift is not None
    )


def measure_drift(session: Session, roles: tuple[str, ...]) -> Drift:
    """Measure the drift on the first micro-batch of the run.

    The unquantised weights of one role are on the devices at a time.

    Args:
        session: opened run; its frozen parameters and initial student are loaded.
        roles: int8 roles to compare with their unquantised weights.
    """
    config, mesh = session.config, session.mesh
    spec = replace(session.spec, steps=total_steps(config.train, session.dataset))
    data = TrainingData(session.dataset, config.seed)
    host = {name: x[0] for name, x in next(data.batches(0, config.train)).items()}
    batch = meshes.put_rows(host, mesh)
    before: dict[str, States] = {}
    after: dict[str, States] = {}
    for role in spec.frozen:
        run = jax.jit(partial(_role_states, spec, mesh, role))
        hidden = None
        if role in roles:
            hidden = _unquantised(session, role, run, batch)
        name = STUDENT if role in spec.on_base else role
        after[role] = run(session.frozen_parameters(name), batch)
        before[role] = after[role] if hidden is None else (hidden, after[role][1])
    run = jax.jit(partial(_student_states, spec, mesh))
    student = run(session.student_at_start(), batch)
    stored = {}
    if spec.stored is not None:
        stored = {TEACHER: spec.stored.second(session.frozen_arguments(), batch)}
    chosen = _chosen(host[MASK])
    changes = jax.jit(
        partial(_changes, spec, mesh, roles), out_shardings=meshes.replicated(mesh)
    )
    sums = changes(student, before, after, stored, batch, chosen)
    mean = {name: float(x) for name, x in jax.device_get(sums).items()}
    tokens = max(mean["tokens"], 1)
    return Drift(
        int(mean["tokens"]),
        {role: mean[f"kl {role}"] / tokens for role in roles},
        {role: mean[f"label_prob {role}"] / tokens for role in roles},
        spec.method.name,
        mean["gamma"] / tokens,
        mean["gradient"] / mean["size"] if mean["size"] else 0.0,
    )


def _unquantised(session: Session, role: str, run: Any, batch: Any) -> Array:
    """Hidden states of the unquantised weights, which become those of the session."""
    part, mesh = session.roles[role], session.mesh
    params = part.model.load(mesh, part.dtype)
    hidden: Array = jax.block_until_ready(run(params, batch)[0])
    key = str(part.model.source), part.precision
    if key in session.shared.parameters:
        jax.tree.map(lambda leaf: leaf.delete(), params)
    else:
        axes = decoder.logical_axes(part.model.config)
        session.shared.parameters[key] = int8_params(params, axes, mesh)
    return hidden


def _role_states(
    spec: StepSpec, mesh: Mesh, role: str, params: Params, batch: Batch
) -> States:
    placement = Placement.of(spec, mesh, batch["tokens"].size)
    # Under its own name, even if it is the base of adapters.
    spec = replace(spec, on_base=())
    return frozen_states(spec, placement, role, {role: params}, batch)


def _student_states(spec: StepSpec, mesh: Mesh, params: Params, batch: Batch) -> States:
    placement = Placement.of(spec, mesh, batch["tokens"].size)
    return forward(spec, placement, spec.student, params, batch, remat="none")


def _chosen(mask: np.ndarray) -> np.ndarray:
    """Flat indices [N] of trained tokens, padded with -1 to whole chunks."""
    trained = np.flatnonzero(mask)
    if len(trained) > TOKENS:
        trained = trained[np.linspace(0, len(trained) - 1, TOKENS).astype(int)]
    padding = -len(trained) % _CHUNK if len(trained) else _CHUNK
    return np.pad(trained, (0, padding), constant_values=-1)


def _changes(
    spec: StepSpec,
    mesh: Mesh,
    roles: tuple[str, ...],
    student: States,
    before: Mapping[str, States],
    after: Mapping[str, States],
    stored: Mapping[str, States | TopK],
    batch: Batch,
    chosen: Array,
) -> dict[str, Array]:
    """Sums over the chosen tokens of the changes from `before` to `after`."""
    vocabulary = spec.vocab_size or spec.student.vocab_size
    placement = Placement.of(spec, mesh, batch["tokens"].size)
    # Policies in the train state start as the student.
    held = dict.fromkeys(spec.method.policy.held, student)

    def tokens(x: Array) -> Array:
        """[B, L, ...] -> [chunks, C, ...] of the chosen tokens, on every device."""
        ordered = in_slot_order(x, mesh.shape["context"])
        flat = ordered.reshape(-1, *x.shape[2:])[chosen]
        flat = jax.lax.with_sharding_constraint(flat, meshes.replicated(mesh))
        return flat.reshape(-1, _CHUNK, *x.shape[2:])

    def columns(models: Mapping[str, States]) -> dict[str, Array]:
        states = {STUDENT: student, **held, **models}
        policy = policy_columns(spec, placement, states, {}, batch)
        read = {name: batch[name] for name in spec.method.columns}
        return {name: tokens(x) for name, x in (read | policy).items()}

    def side(models: Mapping[str, States]) -> Any:
        hidden = {role: tokens(states[0]) for role, states in models.items()}
        return hidden, columns(models)

    of_stored = {
        name: jax.tree.map(tokens, x) if isinstance(x, TopK) else tokens(x[0])
        for name, x in stored.items()
    }
    heads = {
        name: states[1][:vocabulary]
        for name, states in {STUDENT: student, **after, **stored}.items()
        if not isinstance(states, TopK)
    }
    chunks = (
        tokens(student[0]),
        tokens(batch["labels"]),
        (chosen >= 0).reshape(-1, _CHUNK),
        of_stored,
        side(before),
        side(after),
    )
    of_chunk = partial(_chunk_changes, spec, roles, vocabulary, heads)
    return jax.tree.map(partial(jnp.sum, axis=0), jax.lax.map(of_chunk, chunks))


def _chunk_changes(
    spec: StepSpec,
    roles: tuple[str, ...],
    vocabulary: int,
    heads: Mapping[str, Array],
    chunk: Any,
) -> dict[str, Array]:
    """Sums [] over the tokens of one chunk."""
    hidden, labels, counted, stored, *sides = chunk
    cap = spec.student.final_logit_softcap
    logits = capped_logits(hidden, heads[STUDENT], cap)

    def total(x: Array) -> Array:
        return jnp.sum(jnp.where(counted, x, 0))

    targets, log_probs = [], []
    for states, columns in sides:
        models = {role: (x, heads[role]) for role, x in states.items()}
        kept = {
            k: x if isinstance(x, TopK) else (x, heads[k]) for k, x in stored.items()
        }
        second = _second_logits(
            spec, vocabulary, logits, {**spec.mixed(models), **kept}
        )
        scheduled = {
            key: jnp.full(labels.shape, x)
            for key, x in spec.scheduled(jnp.ones((), jnp.int32)).items()
        }
        inputs = {**second, **columns, **spec.method.hyper, **scheduled}
        targets.append(target(spec.method.method, logits, labels, **inputs))
        log_probs.append(
            {
                role: jax.nn.log_softmax(
                    capped_logits(*models[role], spec.frozen[role].final_logit_softcap)
                )
                for role in roles
            }
        )
    sums = {"tokens": total(jnp.ones(labels.shape))}
    for role in roles:
        old, new = (of_side[role] for of_side in log_probs)
        gap = old - new
        # Added zero, Σ (q − p), makes each term of order gap², and none negative.
        terms = jnp.exp(old) * (gap + jnp.expm1(-gap))
        sums[f"kl {role}"] = total(jnp.sum(terms, axis=-1))
        of_label = [
            jnp.take_along_axis(jnp.exp(x), labels[:, None], 1) for x in (old, new)
        ]
        sums[f"label_prob {role}"] = total(jnp.abs(of_label[1] - of_label[0])[:, 0])
    first, last = targets
    sums["gamma"] = total(jnp.abs(last.gamma - first.gamma))
    gradients = [each.logit_gradient() for each in targets]
    sums["gradient"] = total(jnp.sum(jnp.abs(gradients[1] - gradients[0]), axis=-1))
    sums["size"] = total(jnp.sum(jnp.abs(gradients[0]), axis=-1))
    return sums


def _second_logits(
    spec: StepSpec, vocabulary: int, logits: Array, models: Mapping[str, Any]
) -> dict[str, Array]:
    """Logits [C, V] of the second models by the name of the method's input."""
    result = {}
    for name, model in models.items():
        recipe, sources = recipe_of(name, model, spec.logit_caps.get(name))
        states = [x if isinstance(x, TopK) else x[0] for x in sources]
        heads = [None if isinstance(x, TopK) else x[1] for x in sources]
        columns = Columns(vocabulary)
        result[f"{name}_logits"] = second_logits(recipe, columns, logits, states, heads)
    return result


def _check_limit(config: Config, role: str, drift: Drift) -> None:
    section = role_config(config, role)
    assert isinstance(section, FrozenConfig) and section.max_drift is not None
    kl, key = drift.kl[role], role_key(role)
    if not kl <= section.max_drift:
        raise ConfigError(
            f"{key}.dtype is 'int8', and its KL from the unquantised weights is "
            f"{kl:.3g} nats on {drift.tokens:,} trained tokens; expected at most "
            f"{key}.max_drift = {section.max_drift:g}. Use {key}.dtype bfloat16, or a "
            "larger max_drift if the run may learn from that model"
        )


def _key(session: Session) -> str:
    """Digest of what the drift is a function of."""
    config, spec = session.config, session.spec
    models = {
        name: [str(role.model.source), role.precision]
        for name, role in session.roles.items()
    }
    numbers = (config.seed, config.train.batch_size, config.train.accumulation_steps)
    sections = asdict(config.target), asdict(config.policy)
    about = [models, sections, numbers, str(spec.numerics.dtype), str(spec.teachers)]
    return json_digest([*about, session.dataset.fingerprint])


def _read(run_dir: RunDir, key: str) -> Drift | None:
    """Return the drift that an earlier session stored; None if there is none."""
    text = "{}"
    if processes.is_primary():
        try:
            text = json.dumps(json_file.read_object(run_dir.drift))
        except (OSError, ValueError):
            text = "{}"
    stored = json.loads(processes.from_primary(text))
    if stored.pop("key", None) != key:
        return None
    try:
        return Drift(**stored)
    except TypeError:
        return None
