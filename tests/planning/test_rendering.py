"""Reports of plans with made-up numbers, line by line; nothing is compiled."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.chips import Chip
from targetsft_jax.planning.flops import StepFlops
from targetsft_jax.planning.gpus import GPUS
from targetsft_jax.planning.hlo import Program
from targetsft_jax.planning.memory import Memory, Part
from targetsft_jax.planning.plan import Cost, Plan, Roofline, Traffic
from targetsft_jax.planning.rendering import as_json, lines
from targetsft_jax.planning.topology import Topology

# A device with round rates: 100 TFLOP/s, 1000 GB/s, 100 GB/s, 10 GB/s between slices.
CHIP = Chip("v0", 16.0, 1e14, 1e12, 1e11, 1e10)


@pytest.fixture
def plan(make_step) -> Plan:
    """A step of 16 x 64 tokens on four devices that takes 12 of 16 GiB."""
    config = load(
        [
            *("--target.name", "sft", "--student.path", "absent"),
            *("--data.max_length", "64"),
            *("--train.batch_size", "16", "--train.accumulation_steps", "2"),
            *("--train.remat", "full"),
        ]
    )
    spec = rig.with_numerics(make_step().spec, remat="full")
    spec = replace(spec, vocab_size=rig.VOCABULARY)
    mesh = make_mesh(fsdp=4, devices=make_step().mesh.devices.flatten()[:4])
    program = Program((), (), ())
    traffic = {"all-gather": Traffic(1234, 5 * 10**9)}
    return Plan(
        config=config,
        topology=Topology("v0:2x2", (SimpleNamespace(device_kind="V0"),) * 4, CHIP),
        step=make_step(spec, mesh=mesh),
        lower_seconds=1.5,
        compile_seconds=10.2,
        memory=Memory(7.0, 6.0, 12.0, 12.0, 16.0),
        parts=(Part("AdamW moments", 4.0), Part("batch", 0.5)),
        flops=StepFlops(student=3e12, frozen=1e12, heads=5e11, recomputed=1e12),
        cost=Cost(program, traffic, 2 * 10**12, Roofline(14.0, 2.0, 0.05)),
        advice=(),
    )


def test_the_balance_of_shared_rows(plan, make_step):
    """Two devices: the one with the second half would have 3 of 4 pairs of tokens."""
    assert not any("share each row" in line for line in lines(plan))
    devices = plan.step.mesh.devices.flatten()
    mesh = make_mesh(fsdp=2, context=2, devices=devices)
    (line,) = (
        line
        for line in lines(replace(plan, step=make_step(plan.step.spec, mesh=mesh)))
        if line.startswith("context ")
    )
    assert "2 devices share each row" in line
    assert "has 1.00 of the mean causal attention, not 1.49" in line


def test_int8_products_may_exceed_the_rate_of_bfloat16(plan):
    plan = replace(plan, flops=replace(plan.flops, int8=plan.flops.frozen))
    assert any(x.endswith("MFU 82 % of the bfloat16 rate") for x in lines(plan))


def test_the_report_of_a_step_that_fits(plan):
    assert (
        "\n".join(lines(plan))
        == """\
method    sft
topology  v0:2x2: 4 x V0, mesh data 1, fsdp 4, context 1, tensor 1
student   0.0M parameters in float32, blockwise attention, a test
tokens    264 in the vocabulary: a test
batch     16 rows of 64 tokens in 2 micro-batches, computed in float32, remat full
compiled  in 10 s, lowered in 2 s

memory, GiB per device
  arguments        7.00   state, frozen parameters, batch
  temporaries      6.00   compiler's peak, buffers reused
  peak            12.00   live at one time
  capacity        16.00

model FLOPs, attention causal, recomputation not counted
  per token    4.5e+12 = student 3e+12 + frozen 1e+12 + heads 5e+11
  per step     4.61e+15, 1.15e+15 per device
  remat adds   1e+12 per token

collectives per device per step     count        GB sent
  all-gather                        1,234          5.000

roofline: lower bounds of the step time
  compute        14.000 s   recomputation included, at 100 TFLOP/s
  HBM             2.000 s   about 2000 GB at 1000 GB/s
  ICI             0.050 s   all links at 100 GB/s
  step time at least 14.000 s: at most 73 tokens/s, MFU 82 %

fits: 4.00 GiB to spare"""
    )


def _report(plan) -> str:
    return "\n".join(lines(plan))


def test_the_json_has_the_same_numbers(plan):
    numbers = json.loads(json.dumps(as_json(plan)))
    assert numbers["topology"] == "v0:2x2" and numbers["devices"] == 4
    assert numbers["mesh"] == {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}
    assert numbers["trained_parameters"] == 64 * 32 + 32
    assert numbers["fits"] is True
    assert numbers["gib_per_device"]["parts"] == {"AdamW moments": 4.0, "batch": 0.5}
    assert numbers["gib_per_device"]["capacity"] == 16.0
    assert numbers["tokens_per_step"] == 16 * 64
    assert numbers["flops_per_token"]["model"] == 4.5e12
    assert numbers["flops_per_step"] == 4.5e12 * 16 * 64
    assert numbers["hbm_bytes_per_device_and_step"] == 2 * 10**12
    traffic = {"all-gather": {"count": 1234, "bytes": 5 * 10**9, "dcn_bytes": 0}}
    assert numbers["collectives_per_device_and_step"] == traffic
    assert numbers["roofline_seconds"]["step"] == 14.0
    # 1.15e15 FLOPs per device in 14 s; the peak is 1e14 FLOP/s.
    assert numbers["mfu_bound"] == pytest.approx(4.5e12 * 16 * 64 / 4 / 14e14)


def test_a_step_that_does_not_fit_has_its_three_largest_parts_and_advice(plan):
    memory = Memory(7.0, 6.0, 18.5, 18.5, 16.0)
    parts = tuple(Part(name, gib) for name, gib in zip("abcd", (9.0, 4.0, 3.0, 2.0)))
    report = _report(replace(plan, memory=memory, parts=parts, advice=("a: b", "c: d")))
    assert report.endswith("""
does not fit: 2.50 GiB too much; largest contributions:
      9.00 GiB  a
      4.00 GiB  b
      3.00 GiB  c
suggested changes:
  a: b
  c: d""")


def test_a_step_without_a_program_has_no_traffic(plan):
    memory = Memory(7.0, None, None, 20.0, 16.0)
    failed = replace(plan, memory=memory, cost=None)
    report = _report(failed)
    assert "  needed          20.00   reported by the out-of-memory error" in report
    for absent in ("peak  ", "temporaries", "collectives", "roofline"):
        assert absent not in report
    numbers = as_json(failed)
    assert numbers["roofline_seconds"] is None and numbers["mfu_bound"] is None
    assert numbers["hbm_bytes_per_device_and_step"] is None
    assert numbers["collectives_per_device_and_step"] == {}


def test_little_spare_memory_is_a_warning(plan):
    report = _report(replace(plan, memory=Memory(7.0, 6.0, 15.5, 15.5, 16.0)))
    assert report.endswith(
        "0.50 GiB to spare, below the 1 GiB that other programs need"
    )


def test_devices_of_unknown_rates_have_no_roofline(plan):
    topology = Topology("cpu:4", plan.topology.devices, None)
    cost = replace(plan.cost, traffic={}, roofline=None)
    memory = Memory(7.0, 6.0, 12.0, 12.0, None)
    report = _report(replace(plan, topology=topology, cost=cost, memory=memory))
    assert report.endswith("peak 12.00 GiB per device; its capacity is unknown")
    assert "roofline" not in report and "capacity  " not in report
    assert "GB sent\n  none\n" in report


def test_gpus_have_no_bounds_of_time(plan):
    devices = (SimpleNamespace(device_kind="NVIDIA H200"),) * 4
    topology = Topology("h200:2", devices, None, 2, GPUS["h200"])
    traffic = {"all-reduce": Traffic(12, 6 * 10**9, 10**9)}
    cost = replace(plan.cost, traffic=traffic, roofline=None)
    report = _report(replace(plan, topology=topology, cost=cost))
    assert "topology  h200:2, 2 nodes: 4 x NVIDIA H200" in report
    assert "GB sent    between nodes\n" in report
    assert "capacity        16.00   of it XLA_PYTHON_CLIENT_MEM_FRACTION" in report
    assert "no bounds of time" in report and "roofline" not in report
    assert topology.capacity == 151397597184 / 2**30


def test_slices_and_adapters_are_named(plan):
    topology = replace(plan.topology, slices=2)
    traffic = {"all-reduce": Traffic(12, 6 * 10**9, 10**9)}
    cost = replace(plan.cost, traffic=traffic, roofline=Roofline(0.2, 0, 0.05, 0.5))
    spec = replace(plan.step.spec, lora=Lora(2, 4.0, ("q",)))
    step = replace(plan.step, spec=spec)
    sliced = replace(plan, topology=topology, step=step, cost=cost)
    report = _report(sliced)
    assert "topology  v0:2x2, 2 slices: 4 x V0" in report
    assert (
        "all-reduce                           12          6.000            1.000"
        in report
    )
    # The slowest resource is the network between slices.
    assert (
        "DCN             0.500 s   between slices, at 10.000 GB/s per device" in report
    )
    assert "step time at least 0.500 s" in report
    sent = as_json(sliced)["collectives_per_device_and_step"]["all-reduce"]
    assert sent == {"count": 12, "bytes": 6 * 10**9, "dcn_bytes": 10**9}
    numbers = 2 * 2 * (rig.STUDENT.hidden_size * 2)
    assert f"lora rank 2, alpha 4 on q: {numbers:,} of" in report
