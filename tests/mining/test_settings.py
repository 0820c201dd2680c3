"""Domains of the settings, and the keys that mining reads."""

import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.mining.settings import MiningSettings, read_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alternatives": ranks}, "--alternatives is '.*'; expected different ranks")
        for ranks in ("", "1,2", "2,2", "2,", "a", "2,65", "2 3", "-2", "٢")
    ]
    + [
        ({"rule": "most"}, "--rule is 'most'; expected one of all, any"),
        ({"grader": "latex"}, "--grader is 'latex'; expected one of exact, math"),
        ({"min_probability": 1.0}, "--min_probability is 1.0; expected 0 to less"),
        ({"min_probability": float("nan")}, "--min_probability is nan"),
        ({"limit": 0}, "--limit is 0; expected 1 to 10,000,000"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"max_new_tokens": -1}, "--max_new_tokens is -1"),
    ],
)
def test_a_setting_out_of_its_domain_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        MiningSettings(**changes).check()


def test_ranks_are_in_the_order_of_the_request():
    assert MiningSettings(alternatives="3,2,10").ranks() == [3, 2, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.sorce", "jsonl"], "data.sorce is not a key"),
        (["--data.source", "jsonl"], "data.path is None"),
        (["--data.synthetic.digits", "0"], "data.synthetic.digits is 0"),
        (["--mesh.cpu_devices", "0"], "mesh.cpu_devices is 0"),
    ],
)
def test_a_key_that_mining_reads_is_checked(arguments, message):
    with pytest.raises(UsageError, match=message):
        read_config(arguments)


def test_a_configuration_of_a_training_can_be_used():
    config = read_config(["--config", "configs/quickstart.yaml"])
    assert config.data.synthetic.label_noise == 0.3
