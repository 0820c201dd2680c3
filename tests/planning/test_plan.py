"""Plans against arithmetic by hand: memory, traffic, roofline, failures."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from support import rig

from targetsft_jax.config.load import load
from targetsft_jax.planning.chips import CHIPS, GIB
from targetsft_jax.planning.flops import step_flops
from targetsft_jax.planning.hlo import Program, Shape
from targetsft_jax.planning.hlo.collectives import Collective
from targetsft_jax.planning.hlo.loops import Loop
from targetsft_jax.planning.plan import (
    Traffic,
    _compile,
    _max_loss_chunks,
    _traffic,
    make_plan,
)
from targetsft_jax.planning.rendering import lines
from targetsft_jax.planning.topology import get_topology

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ["--config", str(ROOT / "configs" / "quickstart.yaml")]


@pytest.fixture(scope="module")
def sharded():
    """Plan of the quickstart on eight CPU devices, parameters over four."""
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "4"]
    # Blockwise attention computes its scores twice, as does the default on a CPU.
    once = ["--train.attention", "xla", "--train.remat", "none"]
    config = load([*QUICKSTART, *mesh, *once])
    return make_plan(config, get_topology("cpu:8"))


def test_arguments_add_up(sharded):
    parts = {part.name: part.gib for part in sharded.parts}
    # Parameters, moments and the teacher are split over the 4 devices of fsdp.
    student = parts["student parameters"]
    assert parts["AdamW moments"] == pytest.approx(2 * student, rel=1e-3)
    names = ("student parameters", "AdamW moments", "teacher parameters", "batch")
    total = sum(parts[name] for name in names)
    assert total == pytest.approx(sharded.memory.arguments, rel=1e-3)
    assert 0 < sharded.memory.arguments < sharded.memory.peak
    assert [part.gib for part in sharded.parts] == sorted(parts.values(), reverse=True)


def test_a_device_computes_its_share_of_the_flops(sharded):
    """One eighth of the FLOPs of all tokens, in the layers and in the loss."""
    spec, program = sharded.step.spec, sharded.cost.program
    flops = step_flops(
        spec.student,
        spec.frozen.values(),
        length=48,
        vocabulary=spec.vocab_size,
        # Scores are computed for the full square of a row.
        mean_context=48,
    )
    # Only the loss is in a loop without a known trip count; here it has one chunk.
    loss = sum(dot.flops for dot in program.dots if dot.trips is None)
    assert loss == pytest.approx(flops.heads * 24 * 48 / 8)
    layers = flops.student + flops.frozen
    assert program.flops - loss == pytest.approx(layers * 24 * 48 / 8)


def test_a_step_fits_if_the_capacity_is_unknown(sharded):
    assert sharded.memory.capacity is None and sharded.memory.fits
    assert sharded.advice == ()
    assert sharded.roofline is None and sharded.mfu_bound is None
    assert sharded.tokens_per_step == 24 * 48


def test_collectives_add_up_by_kind():
    """Counts and bytes per step; a loop without a known trip count runs 5 times."""

    def reduce(*trips):
        loops = tuple(Loop(f"while.{n}", count) for n, count in enumerate(trips))
        shape = (Shape("f32", (8,)),)
        return Collective("sum", loops, "", "all-reduce", shape, shape, 4)

    gather = replace(reduce(), kind="all-gather")
    program = Program((reduce(), reduce(3, None), gather), (), ())
    each = 2 * 3 * 32 // 4
    assert _traffic(program, 5) == {
        "all-gather": Traffic(1, 3 * 32),
        "all-reduce": Traffic(1 + 15, 16 * each),
    }


@pytest.mark.parametrize("chunk, count", [(512, 1), (144, 1), (143, 2), (16, 9)])
def test_the_number_of_loss_chunks_per_device(sharded, chunk, count):
    # 24 rows of 48 tokens over 8 devices: 144 tokens.
    spec = rig.with_numerics(sharded.step.spec, loss_chunk=chunk)
    assert _max_loss_chunks(replace(sharded.step, spec=spec)) == count


def test_hbm_traffic_is_arguments_and_all_written_arrays(sharded):
    program, arguments = sharded.cost.program, sharded.memory.arguments * GIB
    written = sum(array.written * array.times() for array in program.buffers)
    expected = 2 * (arguments + written)
    assert sharded.cost.hbm_bytes == pytest.approx(expected, abs=1)


def test_a_plan_over_adapters(tmp_path, write_architecture):
    """ASFT's reference is the base: one model, and moments of the adapters only."""
    student = write_architecture(
        tmp_path / "student", hidden_size=64, intermediate_size=96
    )
    config = load(
        [
            *("--mesh.data", "4", "--mesh.tensor", "2"),
            *("--student.path", student, "--target.name", "asft", "--lora.rank", "8"),
            *("--student.dtype", "bfloat16", "--lora.targets", "[q, v]"),
            *("--data.max_length", "48", "--train.batch_size", "24"),
        ]
    )
    plan = make_plan(config, get_topology("cpu:8"))
    bytes_of = {part.name: part.gib * GIB for part in plan.parts}
    assert not [name for name in bytes_of if name.startswith(("reference", "student"))]
    # q is 64 x 64 and v 64 x 32, in two layers of rank 8. For a kernel split by
    # columns, B is split and A is replicated.
    adapters = 4 * 2 * 8 * (64 + 64 / 2 + 64 + 32 / 2)
    assert bytes_of["adapters"] == pytest.approx(adapters)
    assert bytes_of["AdamW moments"] == pytest.approx(2 * adapters, rel=1e-2)
    base = 2 * (512 * 64 + 2 * (64 * (64 + 64) + 64 * 64 + 3 * 64 * 96)) / 2
    assert bytes_of["base parameters"] == pytest.approx(base, rel=0.02)
    trained = sum(leaf.size for leaf in jax.tree.leaves(plan.step.state.params))
    assert trained == 2 * 8 * (128 + 96)


class Lowered:
    """A program whose compilation fails."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    "message, gib",
    [
        ("RESOURCE_EXHAUSTED: (512.0M) exceeds available memory (15.75G)", 0.5),
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 20.5G of 15.75G hbm.", 20.5),
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 1.25T of 15.75G hbm.", 1280),
    ],
)
def test_out_of_memory_errors_state_the_size(message, gib):
    assert _compile(Lowered(message)) == (None, gib)


@pytest.mark.parametrize("message", ["INTERNAL: no", "RESOURCE_EXHAUSTED: no size"])
def test_other_compiler_errors_are_failures(message):
    with pytest.raises(ValueError, match=f"XLA did not compile the step: {message}"):
        _compile(Lowered(message))


@pytest.mark.libtpu
@pytest.mark.slow
def test_a_plan_for_an_absent_tpu(tmp_path, write_architecture):
    """Only config.json is read; there are no weights and no tokenizer."""
    student = write_architecture(tmp_path / "student")
    teacher = write_architecture(tmp_path / "teacher", vocab_size=640, hidden_size=384)
    config = load(
        [
            *("--mesh.data", "1", "--mesh.fsdp", "-1"),
            *("--student.path", student, "--teacher.path", teacher),
            *("--data.max_length", "256", "--train.batch_size", "8"),
            *("--train.remat", "full"),
        ]
    )
    plan = make_plan(config, get_topology("v5e:2x4"))
    assert plan.step.mesh.shape == {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    assert plan.memory.capacity == 15.75 and plan.memory.fits
    report = "\n".join(lines(plan))
    assert "512 in the vocabulary: the smallest vocab_size" in report
    # Dtype and kernel are those of the devices, not of the host.
    assert "splash attention" in report and "computed in bfloat16" in report
    assert "8 x TPU v5 lite" in report and "fits: 15." in report
    chip, roofline = CHIPS["v5e"], plan.roofline
    executed = plan.flops.executed * 8 * 256 / 8
    assert roofline.compute == pytest.approx(executed / chip.flops)
    assert roofline.hbm == pytest.approx(plan.cost.hbm_bytes / chip.hbm_bandwidth)
    sent = sum(traffic.bytes for traffic in plan.cost.traffic.values())
    assert roofline.ici == pytest.approx(sent / chip.ici_bandwidth)
    model = plan.flops.model * 8 * 256 / 8
    assert plan.mfu_bound == pytest.approx(model / chip.flops / roofline.seconds)
    assert 0 < plan.mfu_bound < 1


@pytest.mark.libtpu
@pytest.mark.slow
def test_a_plan_for_two_slices(tmp_path, write_architecture):
    """Only gradients cross the network, once per micro-batch, as shards of a slice."""
    student = write_architecture(tmp_path / "student")
    config = load(
        [
            *("--mesh.data", "2", "--mesh.fsdp", "-1", "--student.path", student),
            *("--target.name", "sft", "--data.max_length", "256"),
            *("--train.batch_size", "16", "--train.accumulation_steps", "2"),
        ]
    )
    plan = make_plan(config, get_topology("v5e:2x2", 2))
    assert plan.step.mesh.shape == {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}
    slices = [device.slice_index for device in plan.step.mesh.devices.flat]
    assert slices == [0] * 4 + [1] * 4
    dcn = sum(each.dcn_bytes for each in plan.cost.traffic.values())
    trained = sum(leaf.size for leaf in jax.tree.leaves(plan.step.state.params))
    # 2 (s - 1) / s = 1 for two slices; 2 bytes of a matrix, 4 of the sums over chunks.
    assert 2 * 2 * trained / 4 < dcn < 2 * 5 * trained / 4
    ici = sum(each.bytes for each in plan.cost.traffic.values()) - dcn
    assert plan.roofline.ici == pytest.approx(ici / CHIPS["v5e"].ici_bandwidth)
    assert plan.roofline.dcn == pytest.approx(dcn / CHIPS["v5e"].dcn_bandwidth)
    assert "between slices, at 3.125 GB/s" in "\n".join(lines(plan))


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="jax's CUDA compiler is not installed: "
    "pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt",
)
@pytest.mark.slow
@pytest.mark.parametrize("attention", ["auto", "cudnn_packed"])
def test_a_plan_for_absent_gpus(attention, tmp_path, write_architecture):
    """Two nodes; the teacher and the student call cuDNN, which is not installed."""
    student = write_architecture(tmp_path / "student")
    teacher = write_architecture(
        tmp_path / "teacher", hidden_size=384, num_attention_heads=3
    )
    config = load(
        [
            *("--mesh.data", "2", "--mesh.fsdp", "-1", "--train.attention", attention),
            *("--student.path", student, "--teacher.path", teacher),
            *("--data.max_length", "2048", "--train.batch_size", "8"),
            *("--train.remat", "full"),
        ]
    )
    plan = make_plan(config, get_topology("h100:4", 2))
    report = "\n".join(lines(plan))
    kernel = "cudnn_packed" if attention == "cudnn_packed" else "cudnn"
    assert f"{kernel} attention" in report and "no bounds of time" in report
    assert plan.roofline is None and plan.mfu_bound is None
    assert 79 < plan.memory.capacity < 80 and plan.memory.fits
    sent = sum(each.bytes for each in plan.cost.traffic.values())
    between = sum(each.dcn_bytes for each in plan.cost.traffic.values())
    # Gradients cross the nodes as shards; parameters are gathered within one.
    assert 0 < between < sent / 4
    # Only the mask is quadratic: [1, 1, T, T], also as a bias of two bytes.
    masks = [s for s in plan.cost.program.shapes() if s.dims[-2:] == (2048, 2048)]
    assert bool(masks) == (attention == "auto")


@pytest.mark.libtpu
def test_an_out_of_memory_error_of_the_compiler_gives_a_plan(
    tmp_path, write_architecture
):
    student = write_architecture(
        tmp_path / "huge", hidden_size=16384, num_hidden_layers=40
    )
    config = load(
        [
            *("--student.path", student, "--target.name", "sft"),
            *("--data.max_length", "256", "--train.batch_size", "1"),
        ]
    )
    plan = make_plan(config, get_topology("v5e:1x1"))
    assert plan.cost is None and plan.memory.peak is None
    assert not plan.memory.fits and plan.memory.needed > plan.memory.arguments > 100
    assert plan.parts[0].name == "AdamW moments"
    assert [line for line in plan.advice if line.startswith("a larger topology")]
