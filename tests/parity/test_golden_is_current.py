"""The committed golden files equal the current results of transformers."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import golden_logits as golden  # noqa: E402

from targetsft_jax.hf.families import FAMILIES  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", FAMILIES)
def test_current(family):
    path = golden.FOLDER / f"{family}.npz"
    assert path.stat().st_size < 100_000
    current, committed = golden.contents(family), np.load(path)
    assert set(committed.files) == set(current)
    for name in set(current) - {"config"}:
        np.testing.assert_allclose(
            committed[name], current[name], atol=1e-5, err_msg=name
        )
