"""Inputs of the methods of a page: columns, models, policies, and what is missing."""

import pytest

from targetsft_jax.config.load import parse
from targetsft_jax.inspection.method_inputs import PageMethod, page_methods
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.targets.methods import METHODS

ALL = ("student", "teacher", "reference", "before")


def methods_of(*arguments, roles=ALL, columns=(), reference="reference"):
    config = parse(["--target.name", "sft", *arguments])
    methods = page_methods(config, roles, columns, reference)
    return {method.name: method for method in methods}


def test_every_method_is_on_the_page() -> None:
    methods = methods_of(columns=tuple(INPUTS))
    assert methods.keys() == METHODS.keys()
    refused = {name for name, method in methods.items() if method.refusal}
    assert refused == {"custom"}


def test_missing_inputs_are_refused_with_a_remedy() -> None:
    methods = methods_of(roles=("student",), reference="student")
    assert "teacher.path" in methods["kd"].refusal
    assert "critical_tokens" in methods["cft"].refusal
    assert "target.gamma" in methods["custom"].refusal
    for name in ("kl", "asft", "prift", "iw_sft", "psft"):
        assert methods[name].refusal is None


@pytest.mark.parametrize("reference", ["student", "before", "reference"])
def test_the_reference_is_the_start_of_training(reference) -> None:
    methods = methods_of(reference=reference)
    for name in ("kl", "prift", "iw_sft"):
        assert set(methods[name].sources.values()) == {reference}
    noted = {"student": "the student itself", "before": "the earlier model"}
    note = methods["kl"].note or ""
    assert noted.get(reference, "") in note
    assert methods["psft"].sources == {"old_logprob": "student"}


def test_columns_come_before_computed_inputs_unless_the_policy_selects() -> None:
    columns = ("old_logprob", "reference_prob")
    methods = methods_of(columns=columns)
    assert methods["psft"].sources == {"old_logprob": "column"}
    assert methods["prift"].sources == {"reference_prob": "column"}
    chosen = ["--target.name", "psft", "--policy.old_logprob", "snapshot"]
    assert methods_of(*chosen, columns=columns)["psft"].sources == {
        "old_logprob": "student"
    }
    chosen = ["--target.name", "psft", "--policy.old_logprob", "data"]
    refusal = methods_of(*chosen)["psft"].refusal
    assert refusal == "the rows have no old_logprob; add the field to each row"


def test_own_hyper_parameters_and_the_end_of_their_schedule() -> None:
    schedule = "{from: 0.1, to: 0.7}"
    methods = methods_of("--target.name", "target_sft", "--target.eta", schedule)
    assert methods["target_sft"].hyper["eta"] == 0.7
    assert "0.1 to 0.7" in methods["target_sft"].note
    assert methods["taid"].hyper == {"eta": 1.0}


def test_guided_priors_are_the_mixes_with_the_teacher() -> None:
    guided = {name for name, x in methods_of().items() if x.is_guided}
    assert guided == {"target_sft", "taid"}
    for residual, expected in (
        ("{guided: 0.2}", True),
        ("{guided_reference: 0.2}", False),
        ("teacher", False),
        ("uniform", False),
    ):
        own = ["--target.name", "custom", "--target.residual", residual]
        method: PageMethod = methods_of(*own)["custom"]
        assert method.refusal is None and method.is_guided == expected, residual
