"""The method of a run, resolved once: hyper-parameters, roles, columns and policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targetsft_jax.targets.api import get_method, hyper_parameters
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.policies import FROM_DATA, Policy, Snapshot, Trajectory

if TYPE_CHECKING:
    from targetsft_jax.config.schema import PolicyConfig

FROZEN_ROLES = ("teacher", "reference")


@dataclass(frozen=True)
class ResolvedMethod:
    """A method and all that follows from it for a run.

    Attributes:
        name: its name in `METHODS`.
        method: the entry.
        hyper: its full hyper-parameters.
        roles: frozen models that its loss or its policy reads, of `FROZEN_ROLES`.
        columns: per-token inputs that the data must have.
        policy: the maker of the per-token inputs that the data does not have.
    """

    name: str
    method: Method
    hyper: Mapping[str, Any]
    roles: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    policy: Policy = FROM_DATA

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in self.hyper.items() if v is not None)
        if self.policy.makes is not None:
            settings = "; ".join(filter(None, (settings, str(self.policy))))
        return f"{self.name} ({settings})" if settings else self.name


def resolve(target: Mapping[str, Any], policy: "PolicyConfig") -> ResolvedMethod:
    """The method that two sections of the configuration specify.

    Args:
        target: `name`, and hyper-parameters, null where the method's default holds.
        policy: sources of per-token inputs.

    Raises:
        ValueError: naming the key, what was found and what is expected.
    """
    name = target["name"]
    given = {k: v for k, v in target.items() if k != "name" and v is not None}
    try:
        method, hyper = get_method(name), hyper_parameters(name, given)
    except ValueError as error:
        raise ValueError(
            f"target: {error}. To drop a key that the file sets, override it with null"
        ) from None
    refusal = method.refusal(**hyper)
    if refusal is not None:
        raise ValueError(f"target.{refusal}")
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
    if "trajectory_weight" in from_policy:
        models.add("reference")
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
        policy=_policy(from_policy, policy),
    )


def _check_sources(name: str, inputs: tuple[str, ...], policy: "PolicyConfig") -> None:
    """Refuse a source of a per-token input that is unknown, or that nothing reads."""
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
    """The maker of these per-token inputs in the step; `FROM_DATA` for none."""
    if "old_logprob" in inputs:
        return Snapshot(config.refresh_every)
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
