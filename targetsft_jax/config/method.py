"""Resolve the method of a run: hyper-parameters, roles, columns and policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from targetsft_jax.config.schedule import Schedule, schedule_of
from targetsft_jax.targets.api import get_method, hyper_parameters
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.policies import (
    FROM_DATA,
    REFERENCE,
    Policy,
    ReferenceProbability,
    Snapshot,
    Trajectory,
)

if TYPE_CHECKING:
    from targetsft_jax.config.schema import PolicyConfig

FROZEN_ROLES = ("teacher", "reference")


@dataclass(frozen=True)
class ResolvedMethod:
    """A method with its hyper-parameters, and the inputs that it needs.

    Attributes:
        name: key in `METHODS`.
        method: entry of `METHODS`.
        hyper: hyper-parameters, defaults included.
        roles: frozen models that the loss or the policy reads, from `FROZEN_ROLES`.
        columns: per-token inputs that the data must have.
        policy: computes the per-token inputs that the data does not have.
        schedules: hyper-parameter -> its schedule over training; `hyper` has its last
            value.
    """

    name: str
    method: Method
    hyper: Mapping[str, Any]
    roles: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    policy: Policy = FROM_DATA
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Hyper-parameters, with schedules in place of the values that they move."""
        return {**self.hyper, **self.schedules}

    def __str__(self) -> str:
        settings = ", ".join(
            f"{k}={v}" for k, v in self.settings.items() if v is not None
        )
        if self.policy.makes is not None:
            settings = "; ".join(filter(None, (settings, str(self.policy))))
        return f"{self.name} ({settings})" if settings else self.name


def resolve(target: Mapping[str, Any], policy: "PolicyConfig") -> ResolvedMethod:
    """Resolve the sections `target` and `policy` of a configuration.

    Args:
        target: `name`, and hyper-parameters; null: the default of the method.
        policy: sources of per-token inputs.

    Raises:
        ValueError: the method is unknown, or a hyper-parameter or source is invalid.
    """
    name = target["name"]
    overrides = {k: v for k, v in target.items() if k != "name" and v is not None}
    try:
        method, hyper = get_method(name), hyper_parameters(name, overrides)
    except ValueError as error:
        raise ValueError(
            f"target: {error}. To drop a key that the file sets, override it with null"
        ) from None
    schedules = _schedules(method, overrides)
    hyper |= {key: schedule.last for key, schedule in schedules.items()}
    refusal = method.refusal(**hyper)
    if refusal is not None:
        raise ValueError(f"target.{refusal}")
    hyper = method.normal(**hyper)
    inputs = method.inputs(**hyper)
    _check_sources(name, inputs, policy)
    from_policy = {
        key
        for key in inputs
        if INPUTS[key].policy_sources and getattr(policy, key) != "data"
    }
    models = {
        key.removesuffix("_logits") for key in inputs if INPUTS[key].per == "model"
    }
    step_policy = _policy(from_policy, policy)
    if REFERENCE in step_policy.reads:
        models.add(REFERENCE)
    return ResolvedMethod(
        name,
        method,
        hyper,
        roles=tuple(role for role in FROZEN_ROLES if role in models),
        columns=tuple(
            key
            for key in inputs
            if INPUTS[key].per != "model" and key not in from_policy
        ),
        policy=step_policy,
        schedules=schedules,
    )


def _schedules(method: Method, overrides: Mapping[str, Any]) -> dict[str, Schedule]:
    """Schedules of the numeric hyper-parameters, defaults of the method included."""
    schedules = {}
    for key, entry in method.hyper.items():
        value = overrides.get(key)
        if entry.numeric and isinstance(value, Mapping):
            schedules[key] = schedule_of(f"target.{key}", value, entry)
        elif value is None and entry.over_training is not None:
            schedules[key] = Schedule(*entry.over_training)
    return schedules


def _check_sources(name: str, inputs: tuple[str, ...], policy: "PolicyConfig") -> None:
    """Raise ValueError for an unknown policy source, or one the method never reads."""
    for key, entry in INPUTS.items():
        if not entry.policy_sources:
            continue
        source, known = getattr(policy, key), entry.policy_sources
        if source is None:
            continue
        if source not in known:
            raise ValueError(
                f"policy.{key} is {source!r}; expected one of {', '.join(known)}, or "
                "null"
            )
        if key not in inputs:
            raise ValueError(
                f"policy.{key} is {source!r} and method {name!r} does not read {key}; "
                "expected null, or a target.name that does"
            )


def _policy(inputs: set[str], config: "PolicyConfig") -> Policy:
    """Return the policy that computes the inputs in the step, or `FROM_DATA`.

    Raises:
        ValueError: a setting that the policy refuses, by its key.
    """
    try:
        return _policy_of(inputs, config)
    except ValueError as error:
        raise ValueError(f"policy.{error}") from None


def _policy_of(inputs: set[str], config: "PolicyConfig") -> Policy:
    if "old_logprob" in inputs:
        return Snapshot(config.refresh_every)
    if "reference_prob" in inputs:
        return ReferenceProbability()
    if "trajectory_weight" in inputs:
        low, high = config.clip
        return Trajectory(
            average=config.trajectory_weight == "ema",
            decay=config.ema_decay,
            mode=config.mode,
            temperature=config.temperature,
            clip=(low, high),
        )
    return FROM_DATA
