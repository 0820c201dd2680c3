"""Provenance of checkpoints: differences that are reported or refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.checkpoints.provenance import Provenance, identity

BEFORE = {"frozen": {"teacher": "aa"}, "versions": {"jax": "0.9", "python": "3.11"}}


def test_other_versions_are_noted():
    now = Provenance(versions={"jax": "0.10", "python": "3.11", "new": "1"})
    assert now.notes(BEFORE) == ["jax was 0.9 and is 0.10"]
    assert now.refusals(BEFORE) == []


def test_other_frozen_models_are_refused():
    now = Provenance(frozen={"teacher": "bb", "reference": "cc"})
    (refusal,) = now.refusals(BEFORE)
    assert refusal == ("the frozen teacher has other weights: they were aa and are bb")
    assert Provenance(frozen={"teacher": "aa"}).refusals(BEFORE) == []


def test_a_checkpoint_of_an_early_version_has_no_provenance():
    assert Provenance(frozen={"teacher": "aa"}).refusals({}) == []
    assert Provenance().notes({}) == []


@pytest.mark.parametrize("name", ["python", "jax", "orbax-checkpoint"])
def test_versions_name_what_numbers_depend_on(name):
    assert Provenance().versions[name][0].isdecimal()


def test_identity_depends_on_every_element_and_on_the_dtype():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = identity({"w": jnp.asarray(x)})
    assert identity({"w": jnp.asarray(x)}) == same and len(same) == 16
    for index in range(6):
        other = x.copy()
        other.reshape(-1)[index] += 1
        assert identity({"w": jnp.asarray(other)}) != same
    assert identity({"w": jnp.asarray(x, jnp.bfloat16)}) != same
    assert identity({"v": jnp.asarray(x)}) != same
