"""Configs that cannot be computed are refused with their numbers."""

import dataclasses

import pytest

from targetsft_jax.models.config import DecoderConfig, RopeScaling

GOOD = DecoderConfig(40, 16, 24, 2, 4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 5}, "head_dim is 5.*even"),
        ({"hidden_size": 18, "head_dim": None}, "hidden_size 18.*num_heads 4"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, **change)


def test_rope_scaling_refused():
    with pytest.raises(ValueError, match="factor is 0"):
        RopeScaling(0, 1.0, 4.0, 8192)
    with pytest.raises(ValueError, match="high_freq_factor is 1.0"):
        RopeScaling(8.0, 1.0, 1.0, 8192)


def test_hashable_and_head_dim_derived():
    assert GOOD.head_dim == 4
    assert hash(GOOD) == hash(DecoderConfig(40, 16, 24, 2, 4, 2, head_dim=4))
