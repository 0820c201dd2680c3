"""Fixtures of the training tests: tiny models, once for the whole session."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import pytest  # noqa: E402
import rig  # noqa: E402


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Hugging Face folders of an untrained student and teacher, by our exporter."""
    return rig.write_folders(tmp_path_factory.mktemp("models"))
