"""The table of families: consistent entries, and advice for similar families."""

from pathlib import Path

import pytest

from targetsft_jax.hf.families import FAMILIES, family
from targetsft_jax.hf.family import PLAIN

GOLDEN = Path(__file__).parents[1] / "models" / "golden"


def test_every_family_has_models_and_a_golden_file():
    assert {path.stem for path in GOLDEN.glob("*.npz")} == set(FAMILIES)
    assert all(entry.models for entry in FAMILIES.values())
    architectures = [entry.architecture for entry in FAMILIES.values()]
    assert len(set(architectures)) == len(architectures)


def test_flags_are_decoder_flags_and_not_repeated():
    for entry in FAMILIES.values():
        assert {*entry.flags, *entry.reads} <= set(PLAIN)
        assert not {*entry.flags} & {*entry.reads}
        assert all(PLAIN[flag] != value for flag, value in entry.flags.items())


@pytest.mark.parametrize(
    "model_type, advice",
    [
        ("gemma3", "expected one of gemma2, .*only its text part"),
        ("gemma", "norms of the first Gemma"),
        ("gpt2", "expected one of .*one more entry"),
        (None, "expected one of"),
        (["llama"], "expected one of"),
    ],
)
def test_other_families_are_refused_with_advice(model_type, advice):
    with pytest.raises(ValueError, match=f"here: model_type is .*{advice}"):
        family(model_type, "here")
