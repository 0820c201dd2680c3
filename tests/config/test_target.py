"""The target section follows from the methods' hyper-parameters."""

import dataclasses

from targetsft_jax.config.target import TargetConfig
from targetsft_jax.targets.methods import METHODS


def test_there_is_a_key_for_each_hyper_parameter_and_no_other():
    names = {name for method in METHODS.values() for name in method.hyper}
    fields = {field.name for field in dataclasses.fields(TargetConfig)}
    assert fields == names | {"name"}
    assert all(getattr(TargetConfig(), name) is None for name in names)


def test_help_names_each_method_that_reads_the_key():
    helps = {f.name: f.metadata["help"] for f in dataclasses.fields(TargetConfig)}
    for method_name, method in METHODS.items():
        assert method_name in helps["name"]
        for name, hyper in method.hyper.items():
            domain = f"[{hyper.default}; {hyper.domain.expected}]"
            assert f"{method_name}: {hyper.help} {domain}" in helps[name]
