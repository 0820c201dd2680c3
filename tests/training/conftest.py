"""Fixtures of the training tests: tiny models, once for the whole session."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import pytest  # noqa: E402
import rig  # noqa: E402

from targetsft_jax.training import fit as fit_module  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def plain_make_train_step():
    """The trainer's own one; all runs but those that ask for it share compilations."""
    real = fit_module.make_train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "make_train_step", rig.compile_once(real))
        yield real


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Hugging Face folders of an untrained student and teacher, by our exporter."""
    return rig.write_folders(tmp_path_factory.mktemp("models"))
