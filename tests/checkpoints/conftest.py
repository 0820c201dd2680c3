"""A model as a Hugging Face folder, and the same parameters as a run directory."""

import jax
import pytest
from support import hf_folders

from targetsft_jax.checkpoints.layered_params import save_params
from targetsft_jax.checkpoints.model_folder import write_model_folder
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.storage.run_dir import RunDir


@pytest.fixture
def hf_folder(tmp_path):
    tensors = hf_folders.tensors("llama")
    folder = hf_folders.write(tmp_path / "hf_model", tensors, "llama")
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def params(hf_folder):
    return load_params(hf_folder, load_config(hf_folder))


@pytest.fixture
def run_dir(hf_folder, params, tmp_path):
    """A run directory with checkpoint 0."""
    run_dir = RunDir(tmp_path / "run")
    save_params(run_dir, jax.block_until_ready(params))
    write_model_folder(run_dir, hf_folder, "# Card")
    return run_dir
