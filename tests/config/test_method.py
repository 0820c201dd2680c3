"""Resolved method: roles, columns and policy of a target and a policy section."""

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schema import ConfigError, PolicyConfig
from targetsft_jax.targets.api import get_method
from targetsft_jax.targets.policies import FROM_DATA, Snapshot, Trajectory


@pytest.mark.parametrize(
    "target, roles, columns",
    [
        ({"name": "sft"}, (), ()),
        ({"name": "kd"}, ("teacher",), ()),
        ({"name": "asft"}, ("reference",), ()),
        ({"name": "cft"}, (), ("critical_mask",)),
        ({"name": "psft"}, (), ()),
        ({"name": "iw_sft"}, ("reference",), ()),
        ({"name": "custom", "residual": "teacher"}, ("teacher",), ()),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_roles_and_columns_follow_from_the_inputs(target, roles, columns):
    method = resolve(target, PolicyConfig())
    assert (method.roles, method.columns) == (roles, columns)
    assert method.method is get_method(target["name"])


def test_hyper_parameters_override_the_defaults():
    target = {"name": "eaft", "top_k": 5, "power": None}
    method = resolve(target, PolicyConfig())
    assert dict(method.hyper) == {"top_k": 5, "entropy_norm": None, "power": 1.0}
    assert str(method) == "eaft (top_k=5, power=1.0)"


def test_a_policy_computes_the_inputs_that_the_data_does_not_have():
    psft, iw_sft = {"name": "psft"}, {"name": "iw_sft"}
    assert resolve(psft, PolicyConfig(refresh_every=3)).policy == Snapshot(3)
    ema = PolicyConfig(trajectory_weight="ema", ema_decay=0.5)
    assert resolve(iw_sft, ema).policy == Trajectory(average=True, decay=0.5)
    from_data = resolve(iw_sft, PolicyConfig(trajectory_weight="data"))
    assert from_data.policy is FROM_DATA
    assert (from_data.roles, from_data.columns) == ((), ("trajectory_weight",))


@pytest.mark.parametrize(
    "target, policy, parts",
    [
        ({"name": "tsft"}, {}, ("target", "no method 'tsft'", "target_sft")),
        ({"name": "sft", "eta": 0.5}, {}, ("no hyper-parameter eta", "null")),
        ({"name": "profit", "tau": 1.0}, {}, ("target.tau is 1.0", "expected")),
        ({"name": "eaft", "top_k": 2.5}, {}, ("target.top_k is 2.5", "whole")),
        (
            {"name": "sft"},
            {"old_logprob": "data"},
            ("policy.old_logprob", "does not read"),
        ),
        ({"name": "iw_sft"}, {"clip": [0, 1e39]}, ("policy.clip is (0, 1e+39)",)),
        ({"name": "iw_sft"}, {"temperature": 1e39}, ("policy.temperature is 1e+39",)),
        (
            {"name": "psft"},
            {"old_logprob": "old"},
            ("policy.old_logprob is 'old'", "snapshot"),
        ),
    ],
)
def test_refusals_name_the_key(target, policy, parts):
    with pytest.raises(ValueError) as error:
        resolve(target, PolicyConfig(**policy))
    for part in parts:
        assert part in str(error.value)


def test_a_configuration_resolves_its_method_once(monkeypatch):
    """The second access returns the cached object."""
    config = load(["--student.path", "s", "--target.name", "sft"])
    monkeypatch.setattr("targetsft_jax.config.schema.resolve", None)
    assert config.method is config.method


def test_an_invalid_target_is_a_config_error():
    with pytest.raises(ConfigError, match="target.name is 'tsft'"):
        load(["--student.path", "s", "--target.name", "tsft"])
