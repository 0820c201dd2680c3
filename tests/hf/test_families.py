"""The table of families: consistent entries, and advice for similar families."""

from pathlib import Path

import pytest

from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.family import PLAIN
from targetsft_jax.hf.family_lookup import family
from targetsft_jax.hf.refused_families import MISSING

GOLDEN = Path(__file__).parents[1] / "models" / "golden"


def test_every_family_has_models_and_a_golden_file():
    assert {path.stem for path in GOLDEN.glob("*.npz")} == set(FAMILIES)
    assert all(entry.models for entry in FAMILIES.values())
    architectures = [entry.architecture for entry in FAMILIES.values()]
    assert len(set(architectures)) == len(architectures)


def test_refused_names_are_families_of_transformers_and_not_ours():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert {*MISSING} <= {*CONFIG_MAPPING_NAMES} and not {*MISSING} & {*FAMILIES}


def test_flags_are_decoder_flags_and_not_repeated():
    for entry in FAMILIES.values():
        assert {*entry.flags, *entry.reads} <= set(PLAIN)
        assert not {*entry.flags} & {*entry.reads}
        assert all(PLAIN[flag] != value for flag, value in entry.flags.items())


@pytest.mark.parametrize(
    "model_type, advice",
    [
        ("gemma3n", "expected one of .*gemma2, .*no flag for .*every layer"),
        ("gpt_j", "expected one of .*one more entry"),
        ("gpt2", "no flag for .*LayerNorm.*without a gate, learned positions"),
        ("lfm2", "no flag for .*convolution"),
        (None, "expected one of"),
        (["llama"], "expected one of"),
    ],
)
def test_other_families_are_refused_with_advice(model_type, advice):
    with pytest.raises(ValueError, match=f"here: model_type is .*{advice}"):
        family(model_type, "here")
