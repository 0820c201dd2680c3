"""Descriptions of methods: every docstring has the parts of table and model card."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from targetsft_jax import METHODS
from targetsft_jax.config.load import load
from targetsft_jax.targets import Method, QTarget
from targetsft_jax.targets.describe import TABLE_HEADER, describe, explain, table_row

NO_PAPER = ("sft", "custom")
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_a_docstring_follows_the_recipe(name: str):
    """A title, the equation, `See *title* (url)`, Args with every keyword, Returns."""
    doc = inspect.getdoc(METHODS[name].build)
    title, blank, equation, *_ = doc.split("\n")
    assert title.endswith(".") and not blank
    assert equation.startswith("    Q = ")
    assert ("See *" in doc) == (name not in NO_PAPER)
    assert "\nReturns:\n" in doc
    arguments = doc.partition("\nArgs:\n")[2].partition("\nReturns:\n")[0]
    for parameter in inspect.signature(METHODS[name].build).parameters:
        assert re.search(rf"^    {parameter}: ", arguments, re.M), parameter


@every_method
def test_a_description_has_every_part(name: str):
    words, method = describe(name), METHODS[name]
    assert words.name == name and words.title and words.equation.startswith("Q = ")
    assert (words.label, words.alternative, words.mix) == (
        method.label,
        method.alternative,
        method.mix,
    )
    if name not in NO_PAPER:
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", words.source.url)
        assert "\n" not in words.source.title
        assert words.source.short == "arXiv " + words.source.url[-10:]


def test_residuals_follow_from_the_weights():
    """Q = (1 − a − b)·p + a·δ_y + b·T, as Q = γ·δ_y + (1 − γ)·π̃."""
    residuals = {name: describe(name).residual for name in METHODS}
    assert {residuals[name] for name in ("sft", "dft", "psft", "cft")} == {"p"}
    assert {residuals[n] for n in ("kd", "kd_h", "target_sft", "custom")} == {"T"}
    assert residuals["label_smoothing"] == "T"
    assert residuals["kl"] == "none, since γ = 1: Q = δ_y + (λ)·(T − p)"
    assert residuals["gem"] == "none, since γ = 1: Q = δ_y + (−1)·(T − p)"
    assert residuals["asft"] == "((1 − γ − b)·p + b·T) / (1 − γ), b = λ"


def test_an_explanation_has_the_hyper_parameters():
    lines = explain("target_sft", {"eta": 0.7, "gamma": None})
    text = "\n".join(lines)
    assert "    Q = p_y δ_y + (1 − p_y) normalise(p^(1−η) π_T^η)" in lines
    assert "- eta = 0.7: " in text and "- gamma = None: " in text
    assert "(α, β) = (1−η, η) teacher" in text
    assert "(https://arxiv.org/abs/2606.11189)" in lines[-1]
    assert "(α, β)" not in "\n".join(explain("dft", {}))


def test_a_method_without_docstring_is_described_by_its_name():
    bare = Method(lambda rows: QTarget(rows.prob), label="p_y")
    words = describe(bare)
    assert (words.name, words.title, words.equation) == ("<lambda>", "", "")
    assert words.source is None and explain(bare, {})


def test_rows_have_the_columns_of_their_header():
    header, line = TABLE_HEADER.split("\n")
    rows = [table_row(name) for name in METHODS]
    assert {row.count("|") for row in (header, line, *rows)} == {7}
    assert rows[1].startswith("| `dft` | p_y | 0 | – |")
    assert rows[1].endswith("[arXiv 2508.05629](https://arxiv.org/abs/2508.05629) |")


def test_a_value_outside_its_domain_is_not_described():
    with pytest.raises(ValueError, match="'alpha': alpha is nan; expected -1 or more"):
        explain("alpha", {"alpha": float("nan")})
    with pytest.raises(ValueError, match="no hyper-parameter beta"):
        explain("alpha", {"beta": 1.0})


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_has_a_command_that_it_accepts(name: str):
    page = Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md"
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"^targetsft train (.*)$", text, re.M)
    method = load(shlex.split(command)).method
    assert method.name == name
    # The guidance of the quickstart is not that of another method.
    assert name == "target_sft" or method.hyper.get("eta") != 0.5
