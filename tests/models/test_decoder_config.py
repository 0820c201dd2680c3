"""Errors of invalid configs, with their numbers."""

import dataclasses

import pytest

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.rope import LinearScaling, RopeScaling, YarnScaling

GOOD = DecoderConfig(40, 16, 24, 2, 4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 5}, "head_dim is 5.*even"),
        ({"partial_rotary_factor": 0.75}, "head_dim is 4, of which 3.*even"),
        ({"partial_rotary_factor": 0.0}, "of which 0"),
        ({"activation": "gelu"}, "activation is 'gelu'.*silu, gelu_tanh"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"attn_logit_softcap": -1.0}, "attn_logit_softcap is -1.0"),
        (
            {"sliding_window": 4, "sliding_layers": (True,)},
            "sliding_layers has 1 entries.*num_layers is 2",
        ),
        ({"sliding_layers": (True, False)}, "sliding_window is None"),
        ({"local_rope_theta": 1e4}, "local_rope_theta.*sliding_window is None"),
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
    with pytest.raises(ValueError, match="factor is -1"):
        LinearScaling(-1.0)
    with pytest.raises(ValueError, match="beta_fast is 0"):
        YarnScaling(4.0, 32, beta_fast=0)


def test_windows_of_layers():
    def windows(**changes):
        return dataclasses.replace(GOOD, **changes).windows

    assert windows() == (None, None)
    assert windows(sliding_window=4) == (4, 4)
    assert windows(sliding_window=4, sliding_layers=(False, True)) == (None, 4)
    # Configs whose layers are all alike compare equal.
    same = dataclasses.replace(GOOD, sliding_window=4, sliding_layers=(True, True))
    assert same == dataclasses.replace(GOOD, sliding_window=4)
    none = dataclasses.replace(GOOD, sliding_window=4, sliding_layers=(False, False))
    assert none == GOOD


def test_hashable_and_head_dim_derived():
    assert GOOD.head_dim == 4
    assert hash(GOOD) == hash(DecoderConfig(40, 16, 24, 2, 4, 2, head_dim=4))
