"""Methods in words: one description for the README's table and the model card.

Title, equation and source are read from the docstring of a method's function, so that
they are written once:

    First line: the title.

        Q = …

    See *title of the paper* (url).
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from targetsft_jax.targets.api import get_method
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
        """Its arXiv number, or its title."""
        number = re.fullmatch(r"https://arxiv\.org/abs/(\S+)", self.url)
        return f"arXiv {number[1]}" if number else self.title

    def __str__(self) -> str:
        return f"[{self.title}]({self.url})"


@dataclass(frozen=True)
class Description:
    """A method in words.

    Attributes:
        name: its name in `METHODS`.
        title: one line, without a final full stop.
        equation: its target Q; empty without one.
        label, alternative, mix: a, b and (α, β) as readers write them.
        inputs: names of its inputs; None if they depend on its hyper-parameters.
        hyper: its hyper-parameters.
        source: its publication, if there is one.
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
    """The description of a method.

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


def explain(method: str | Method, hyper: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown that explain a method under some hyper-parameters.

    Args:
        method: a name in `METHODS`, or a `Method`.
        hyper: values of its hyper-parameters.
    """
    words = describe(method)
    equation = ["", f"    {words.equation}"] if words.equation else []
    lines = [
        f"{words.title}.",
        *equation,
        "",
        f"- γ = {words.label}, the weight of the label y in the target",
        f"- π̃ = {words.residual}, the residual",
    ]
    if words.alternative != "0":
        lines.append(f"- T = softmax(α·z + β·z_other), (α, β) = {words.mix}")
    lines.append("- p: the model's own distribution; p_y: its probability of the label")
    for key, value in hyper.items():
        lines.append(f"- {key} = {value}: {words.hyper[key].help}")
    if words.source is not None:
        lines.append(f"- source: {words.source}")
    return lines


def table_row(method: str | Method) -> str:
    """A method's row of the Markdown table under `TABLE_HEADER`."""
    words = describe(method)
    cells = (
        f"`{words.name}`",
        words.label,
        words.alternative,
        words.mix,
        "by hyper-parameters" if words.inputs is None else _code(words.inputs),
        _code(f"{key}={each.default!r}" for key, each in words.hyper.items()),
        f"[{words.source.short}]({words.source.url})" if words.source else "",
    )
    return "| " + " | ".join(cells) + " |"


TABLE_HEADER = (
    "| method | a (label) | b (alternative) | (α, β) | inputs | hyper-parameters "
    "| source |\n|---|---|---|---|---|---|---|"
)


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
