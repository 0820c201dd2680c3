"""A student and a teacher of 272 byte tokens, loaded once."""

import pytest
from support import rig

import targetsft_jax as tsft
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained


@pytest.fixture(scope="package")
def paths(tmp_path_factory):
    """role -> folder; parameters large enough that predictions are not uniform."""
    root = tmp_path_factory.mktemp("interactive")
    for number, role in enumerate(("student", "teacher")):
        params = rig.params_of(rig.STUDENT, number)
        save_pretrained(root / role, rig.STUDENT, params, tokenizer=byte_tokenizer())
    return {role: root / role for role in ("student", "teacher")}


@pytest.fixture(scope="package")
def model(paths):
    return tsft.load(paths["student"])


@pytest.fixture(scope="package")
def teacher(paths):
    return tsft.load(str(paths["teacher"]))
