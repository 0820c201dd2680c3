"""Versions against those of the imported packages."""

import jax
import numpy as np

import targetsft_jax
from targetsft_jax.versions import MODEL, installed_versions


def test_versions_are_those_of_the_imported_packages():
    versions = installed_versions(MODEL)
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == np.__version__
    assert versions["targetsft-jax"] == targetsft_jax.__version__


def test_packages_that_are_not_installed_are_left_out():
    versions = installed_versions(["no-such-package"])
    assert set(versions) == {"python", "targetsft-jax"}
