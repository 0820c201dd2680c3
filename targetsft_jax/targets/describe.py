"""Descriptions of methods, for tables of methods and the model card.

Title, equation and source are parsed from the docstring of a method's function:

    First line: the title.

        Q = …

    See *title of the paper* (url).
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from targetsft_jax.targets.api import checked_hyper_parameters, get_method
from targetsft_jax.targets.method import Hyper, Method

_EQUATION = re.compile(r"\n\n((?:    \S.*\n?)+)")
_SOURCE = re.compile(r"See \*([^*]+)\*\s+\((\S+)\)")


@dataclass(frozen=True)
class Source:
    """A publication."""

    title: str
    url: str

    @property
    def short(self) -> str:
        """ArXiv number, or title."""
        number = re.fullmatch(r"https://arxiv\.org/abs/(\S+)", self.url)
        return f"arXiv {number[1]}" if number else self.title

    def __str__(self) -> str:
        return f"[{self.title}]({self.url})"


@dataclass(frozen=True)
class Description:
    """Title, equation, weights, inputs and source of a method.

    Attributes:
        name: its name in `METHODS`.
        title: one line, without a final full stop.
        equation: its target Q; empty without one.
        label, alternative, mix: a, b and (α, β) as text.
        inputs: names of its inputs; None if they depend on the hyper-parameters.
        hyper: its hyper-parameters.
        source: its publication, or None.
    """

    name: str
    title: str
    equation: str
    label: str
    alternative: str
    mix: str
    inputs: tuple[str, ...] | None
    hyper: Mapping[str, Hyper]
    source: Source | None

    @property
    def residual(self) -> str:
        """π̃ of Q = (1 − a − b)·p + a·δ_y + b·T."""
        a, b = self.label, self.alternative
        if b == "0":
            return "p"
        if b == f"1 − {a}" or a == f"1 − {b}" or (a, b) == ("0", "1"):
            return "T"
        if a == "1":
            # No mass is left for π̃: Q is signed, δ_y plus a difference.
            return f"none, since γ = 1: Q = δ_y + ({b})·(T − p)"
        return f"((1 − γ − b)·p + b·T) / (1 − γ), b = {b}"


def describe(method: str | Method) -> Description:
    """Describe a method from its entry and docstring.

    Raises:
        ValueError: an unknown name.
    """
    method = get_method(method)
    doc = inspect.getdoc(method.build) or ""
    equation = _EQUATION.search(doc)
    source = _SOURCE.search(doc)
    return Description(
        name=method.name,
        title=doc.partition("\n")[0].rstrip("."),
        equation=inspect.cleandoc(equation[1]).strip() if equation else "",
        label=method.label,
        alternative=method.alternative,
        mix=method.mix,
        inputs=None if callable(method.needs) else method.needs,
        hyper=method.hyper,
        source=Source(" ".join(source[1].split()), source[2]) if source else None,
    )


def explain(
    method: str | Method,
    hyper: Mapping[str, Any],
    schedules: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Lines of Markdown that describe a method and its hyper-parameters.

    Args:
        method: a name in `METHODS`, or a `Method`.
        hyper: values of its hyper-parameters.
        schedules: text in place of the values that change during training.

    Raises:
        ValueError: an unknown name, or a value outside its domain.
    """
    description = describe(method)
    complete = checked_hyper_parameters(method, hyper)
    hyper = {key: schedules.get(key, complete[key]) for key in hyper}
    equation = ["", f"    {description.equation}"] if description.equation else []
    lines = [
        f"{description.title}.",
        *equation,
        "",
        f"- γ = {description.label}, the weight of the label y in the target",
        f"- π̃ = {description.residual}, the residual",
    ]
    if description.alternative != "0":
        lines.append(f"- T = softmax(α·z + β·z_other), (α, β) = {description.mix}")
    lines.append("- p: the model's own distribution; p_y: its probability of the label")
    for key, value in hyper.items():
        lines.append(f"- {key} = {value}: {description.hyper[key].help}")
    if description.source is not None:
        lines.append(f"- source: {description.source}")
    return lines


def table_row(method: str | Method) -> str:
    """A method's row of the Markdown table under `TABLE_HEADER`."""
    description = describe(method)
    cells = (
        f"`{description.name}`",
        description.label,
        description.alternative,
        description.mix,
        "by hyper-parameters"
        if description.inputs is None
        else _code(description.inputs),
        f"[{description.source.short}]({description.source.url})"
        if description.source
        else "",
    )
    return "| " + " | ".join(cells) + " |"


TABLE_HEADER = (
    "| method | a (label) | b (alternative) | (α, β) | inputs | source |\n"
    "|---|---|---|---|---|---|"
)


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
