"""Differences of positions that mean other data."""

from dataclasses import asdict, replace

import pytest

from targetsft_jax.checkpoints.position import Position

POSITION = Position(7, 3, 8, "data")


def test_the_step_alone_may_differ():
    assert POSITION.differences(asdict(replace(POSITION, step=1))) == []


@pytest.mark.parametrize(
    "field, value", [("seed", 4), ("batch_size", 16), ("fingerprint", "other")]
)
def test_every_other_field_is_named(field, value):
    (difference,) = POSITION.differences(asdict(POSITION) | {field: value})
    now = getattr(POSITION, field)
    assert difference == f"{field} was {value!r} and is {now!r}"


def test_a_missing_field_differs():
    assert POSITION.differences({"seed": 3, "batch_size": 8}) == [
        "fingerprint was None and is 'data'"
    ]
