"""Methods of a page: hyper-parameters, inputs, and the reason where one is missing."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from targetsft_jax.config.method import ResolvedMethod
from targetsft_jax.config.schema import Config
from targetsft_jax.targets.describe import describe
from targetsft_jax.targets.inputs import INPUTS, SECOND_MODELS
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.methods import METHODS
from targetsft_jax.targets.rows import Mix

STUDENT, TEACHER, REFERENCE, BEFORE = "student", "teacher", "reference", "before"

COLUMN = "column"
"""Source of a per-token input that is a column of the data."""


@dataclass(frozen=True)
class PageMethod:
    """A method as a page shows it.

    Attributes:
        method: entry of `METHODS`.
        hyper: complete hyper-parameters.
        sources: input -> `COLUMN`, or the role that it is computed from.
        refusal: reason for which it cannot be computed; None if it can.
        note: assumption behind its numbers; None without one.
    """

    method: Method
    hyper: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    refusal: str | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        """Name in `METHODS`."""
        return self.method.name

    @property
    def other(self) -> str | None:
        """Role of the second model; None without one."""
        return next((x for k, x in self.sources.items() if k in SECOND_MODELS), None)

    @functools.cached_property
    def mix(self) -> Mix | None:
        """(α, β) of T; None without one, where scores define it, or if refused."""
        if self.refusal is not None:
            return None
        columns = [name for name in self.sources if name not in SECOND_MODELS]
        one_token = jnp.zeros(1, jnp.float32)
        return self.method.mix_of(dict.fromkeys(columns, one_token), **self.hyper)

    @property
    def is_guided(self) -> bool:
        """True if T = softmax((1 − η) z + η z_T), whose η a reader may move."""
        if self.mix is None or self.other != TEACHER:
            return False
        alpha, beta = map(float, self.mix)
        return ("eta" in self.hyper or 0 < beta < 1) and abs(alpha + beta - 1) < 1e-9

    def entry(self) -> dict[str, Any]:
        """The method's JSON in the page's header, except its alternative."""
        description = describe(self.method)
        return {
            "name": self.name,
            "title": description.title,
            "equation": description.equation,
            "label_formula": description.label,
            "alternative_formula": description.alternative,
            "source": description.source.url if description.source else "",
            "hyper": dict(self.hyper),
            "refusal": self.refusal,
            "note": self.note,
            "alternative": None,
        }


def page_methods(
    config: Config, roles: Collection[str], columns: Collection[str], reference: str
) -> list[PageMethod]:
    """All methods of the library, with the inputs that a page has for each.

    The configuration's own method has its hyper-parameters, the others have defaults.

    Args:
        config: configuration, whose `target` and `policy` are read.
        roles: roles with a model.
        columns: per-token inputs that the data has.
        reference: role that serves as π_ref.
    """
    return [
        _page_method(method, config, roles, columns, reference)
        for method in METHODS.values()
    ]


def _page_method(
    method: Method,
    config: Config,
    roles: Collection[str],
    columns: Collection[str],
    reference: str,
) -> PageMethod:
    own = config.method if config.method.name == method.name else None
    hyper = method.defaults if own is None else own.hyper
    if method.name == "custom" and own is None:
        reason = (
            "no γ and π̃ are specified; set target.name to custom, target.gamma and "
            "target.residual"
        )
        return PageMethod(method, hyper, refusal=reason)
    sources, notes = {}, [_schedule_note(own)]
    for name in method.inputs(**hyper):
        source = _source(name, config, columns, reference)
        if source is None or (source != COLUMN and source not in roles):
            return PageMethod(method, hyper, refusal=_missing(name))
        sources[name] = source
        notes.append(_note(name, source))
    note = "; ".join(text for text in notes if text) or None
    return PageMethod(method, hyper, sources, note=note)


def _source(
    name: str, config: Config, columns: Collection[str], reference: str
) -> str | None:
    """Column or role behind an input; None if nothing can supply it."""
    if name == "teacher_logits":
        return TEACHER
    if name == "reference_logits":
        return reference
    computed = [x for x in INPUTS[name].policy_sources if x != "data"]
    policy = getattr(config.policy, name) if computed else "data"
    if name in columns and policy in (None, "data"):
        return COLUMN
    if not computed or policy == "data":
        return None
    # π_old is the student itself; the others are relative to the reference.
    return STUDENT if name == "old_logprob" else reference


def _missing(name: str) -> str:
    if name == "teacher_logits":
        return "it needs a teacher; set teacher.path"
    remedy = "add the field to each row"
    if name == "critical_mask":
        remedy += ", or mine it with `python -m targetsft_jax.critical_tokens`"
    return f"the rows have no {name}; {remedy}"


def _note(name: str, source: str) -> str | None:
    if source == COLUMN:
        return f"{name} is a column of the rows"
    if name == "old_logprob":
        return "π_old is the student itself, as right after a refresh: the ratio is 1"
    if name == "teacher_logits":
        return None
    if source == STUDENT:
        return "π_ref is the student itself, as at the start of training"
    if source == BEFORE:
        return "π_ref is the earlier model, from which training started"
    return None


def _schedule_note(own: ResolvedMethod | None) -> str | None:
    if own is None or not own.schedules:
        return None
    return ", ".join(
        f"{key} moves from {schedule}; this is its last value"
        for key, schedule in own.schedules.items()
    )
