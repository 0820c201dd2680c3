"""The committed golden files are what transformers says today."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="live parity needs the `parity` extra")

from support import golden_logits as golden  # noqa: E402

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_current(family):
    path = golden.FOLDER / f"{family}.npz"
    assert path.stat().st_size < 100_000
    now, kept = golden.contents(family), np.load(path)
    assert set(kept.files) == set(now)
    for name in set(now) - {"config"}:
        np.testing.assert_allclose(kept[name], now[name], atol=1e-5, err_msg=name)
