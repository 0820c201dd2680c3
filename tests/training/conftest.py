"""Packed data set and uninterrupted training, shared by the tests of the loop."""

import pytest
from support.fits import fit_target_sft

from targetsft_jax.data.config import DataConfig, SyntheticConfig
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer


@pytest.fixture(scope="session")
def dataset():
    """Rows of two or more problems; fewer than 40, so that a run has two epochs."""
    synthetic = SyntheticConfig(examples=64, digits=1)
    config = DataConfig(synthetic=synthetic, max_length=64)
    packed = prepare(config, byte_tokenizer()).train
    assert packed.rows < 40
    return packed


@pytest.fixture(scope="session")
def undisturbed(dataset, tmp_path_factory):
    """(run directory, result) of an uninterrupted run; copy before changing it."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    return run_dir, fit_target_sft(dataset, run_dir)
