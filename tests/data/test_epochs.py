"""The sentence on the use of rows agrees with the rows of the steps."""

from collections import Counter

import numpy as np
import pytest

from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.epochs import describe_use
from targetsft_jax.data.pipeline import prepare, rows_at
from targetsft_jax.data.tokenizer import byte_tokenizer


def _dataset(*examples, weights=None):
    """One row per example, of one source or of several with weights."""
    parts = [
        SourceConfig(name=f"s{i}", synthetic=SyntheticConfig(examples=n, seed=i))
        for i, n in enumerate(examples)
    ]
    if weights is None:
        config = DataConfig(synthetic=parts[0].synthetic, packing=False, max_length=64)
    else:
        for part, weight in zip(parts, weights):
            object.__setattr__(part, "weight", weight)
        config = DataConfig(mixture=parts, packing=False, max_length=64)
    return prepare(config, byte_tokenizer()).train


@pytest.mark.parametrize(
    "rows, steps, text",
    [
        (13, 2, "2 steps use 16 rows; 3 rows are used twice, the others once"),
        (9, 1, "1 step uses 8 rows; 1 of 9 rows is left out"),
        (11, 1, "1 step uses 8 rows; 3 of 11 rows are left out"),
        (8, 1, "1 step uses 8 rows; each row is used once"),
        (1, 1, "1 step uses 8 rows; each row is used 8 times"),
        (7, 1, "1 step uses 8 rows; 1 row is used twice, the others once"),
        (16, 6, "6 steps use 48 rows; each row is used 3 times"),
    ],
)
def test_rows_are_repeated_or_left_out(rows, steps, text):
    dataset = _dataset(rows)
    noun = "1 row" if rows == 1 else f"{rows} rows"
    assert describe_use(dataset, steps, 8) == f"{noun}, batch size 8: {text}"
    numbers = [rows_at(dataset, step, batch_size=8) for step in range(steps)]
    used = Counter(np.concatenate(numbers).reshape(-1).tolist())
    assert max(used.values()) == -(-steps * 8 // rows)
    left_out = rows - len(used)
    assert (f"{left_out} of" in text) == (left_out > 0)


def test_sources_with_weights_are_used_by_their_weights():
    dataset = _dataset(5, 20, weights=[0.75, 0.25])
    assert describe_use(dataset, 2, 4) == (
        "25 rows, batch size 4: 2 steps use 8 rows; s0: 1 row is used twice, the"
        " others once; s1: 18 of 20 rows are left out"
    )
    numbers = np.concatenate([rows_at(dataset, i, batch_size=4)[0] for i in (0, 1)])
    assert (numbers < 5).sum() == 6
