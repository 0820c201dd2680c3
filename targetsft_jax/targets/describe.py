"""Methods in words: one description for the README's table and the model card."""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.targets.api import get_method


def explain(name: str, hyper: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown that explain a method under some hyper-parameters.

    Args:
        name: a name in `METHODS`.
        hyper: values of its hyper-parameters.
    """
    method = get_method(name)
    label, alternative = method.label, method.alternative
    lines = [
        f"- γ = {label}, the weight of the label y in the target",
        f"- π̃ = {_residual(label, alternative)}, the residual",
    ]
    if alternative != "0":
        lines.append(f"- T = softmax(α·z + β·z_other), (α, β) = {method.mix}")
    lines.append("- p: the model's own distribution; p_y: its probability of the label")
    lines += [f"- {key} = {value}" for key, value in hyper.items()]
    return [*lines, f"- source: {method.source}"]


def _residual(a: str, b: str) -> str:
    """π̃ of Q = (1 − a − b)·p + a·δ_y + b·T."""
    if b == "0":
        return "p"
    if b == f"1 − {a}" or (a, b) == ("0", "1"):
        return "T"
    if a == "1":
        # No mass is left for π̃: Q is signed, δ_y plus a difference.
        return f"none, since γ = 1: Q = δ_y + ({b})·(T − p)"
    return f"((1 − γ − b)·p + b·T) / (1 − γ), b = {b}"
