"""Topology names and their devices."""

import importlib.util
import os

import jax
import pytest

from targetsft_jax.command import UsageError
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning import topology
from targetsft_jax.planning.chips import CHIPS
from targetsft_jax.planning.gpus import GPUS
from targetsft_jax.planning.topology import (
    TopologyError,
    UnavailableTopology,
    get_topology,
    parse_topology,
    prepare_jax,
)


def test_names_are_parsed_into_kind_and_bounds():
    assert parse_topology("b200:8") == ("b200", (8,))
    assert parse_topology("v5p:2x2x4") == ("v5p", (2, 2, 4))
    assert parse_topology("cpu:8") == ("cpu", (8,))


@pytest.mark.parametrize("name", ["h100:2x8", "h200:100"])
def test_gpus_are_those_of_a_node(name):
    with pytest.raises(TopologyError, match="expected the GPUs of a node, such as"):
        parse_topology(name)


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "v5e:0x4", "cpu:", "v5e:4*4"])
def test_other_names_are_usage_errors(name):
    with pytest.raises(TopologyError, match="expected cpu:N, or a generation"):
        parse_topology(name)
    assert issubclass(TopologyError, UsageError)


def test_cpu_topologies_are_the_first_devices_of_jax():
    three = get_topology("cpu:3")
    assert three.devices == tuple(jax.devices()[:3])
    assert three.chip is None and three.slices == 1


@pytest.mark.parametrize(
    "slices, message", [(2, "cpu:N is one slice"), (0, "expected 1 or more")]
)
def test_invalid_numbers_of_slices(slices, message):
    with pytest.raises(TopologyError, match=message):
        get_topology("cpu:8", slices)


def test_more_cpu_devices_than_jax_has():
    with pytest.raises(UnavailableTopology, match="jax has 8 CPU devices"):
        get_topology("cpu:16")


def test_prepare_jax_keeps_an_initialized_jax_and_set_variables(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_ID", "7")
    prepare_jax("cpu:2")
    assert len(jax.devices()) == 8
    assert os.environ["TPU_WORKER_ID"] == "7"


@pytest.mark.libtpu
@pytest.mark.parametrize(
    "name, slices, devices", [("v5e:1x1", 1, 1), ("v5e:2x4", 1, 8), ("v5e:2x2", 2, 8)]
)
def test_tpu_topologies_have_devices_and_rates(name, slices, devices):
    prepare_jax(name)
    tpus = get_topology(name, slices)
    assert [device.platform for device in tpus.devices] == ["tpu"] * devices
    assert tpus.chip == CHIPS["v5e"]
    indices = {getattr(device, "slice_index", 0) for device in tpus.devices}
    assert len(indices) == slices


def test_gpus_need_the_compiler_of_the_same_jax(monkeypatch):
    monkeypatch.setattr(topology, "_version", lambda package: None)
    with pytest.raises(UnavailableTopology, match="jax-cuda12-plugin missing.*no GPU"):
        get_topology("h100:8")


needs_cuda_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="jax's CUDA compiler is not installed: "
    "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt",
)


@needs_cuda_compiler
@pytest.mark.parametrize("name", GPUS)
def test_gpu_topologies_have_nodes_and_capacities(name):
    two = get_topology(f"{name}:8", 2)
    assert [device.platform for device in two.devices] == ["gpu"] * 16
    assert two.devices[0].device_kind == GPUS[name].title
    assert (
        two.nodes(make_mesh(data=2, fsdp=8, devices=two.devices)) == [0] * 8 + [1] * 8
    )
    assert get_topology(f"{name}:4").nodes(make_mesh(devices=two.devices[:4])) == []
    assert two.capacity == GPUS[name].memory / 2**30 and two.chip is None


@pytest.mark.libtpu
def test_bounds_rejected_by_the_compiler_are_usage_errors():
    prepare_jax("v5e:3x5")
    with pytest.raises(TopologyError, match="which the TPU compiler rejects"):
        get_topology("v5e:3x5")


@pytest.mark.parametrize("name", ["cpu:5000", "cpu:1000000000000", "cpu:" + "9" * 5000])
def test_more_cpu_devices_than_a_process_can_have(name):
    for function in (parse_topology, prepare_jax):
        with pytest.raises(TopologyError, match="--topology is 'cpu:"):
            function(name)
