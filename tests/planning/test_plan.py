"""The plan command from end to end: a report, and an exit code that scripts can use."""

import importlib.util
import json
from pathlib import Path

import jax
import pytest

from targetsft_jax.plan import main
from targetsft_jax.planning.topology import TopologyError, parse_topology

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed: pip install -e ".[tpu]"',
)


@pytest.fixture(autouse=True)
def started():
    """Jax has its eight CPU devices before the command could ask for others."""
    assert len(jax.devices()) == 8


def _architecture(folder: Path, **changes) -> str:
    folder.mkdir()
    shape = {
        "model_type": "qwen2",
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(shape | changes))
    return str(folder)


def test_a_plan_on_virtual_devices(tmp_path, capsys):
    given = ["--topology", "cpu:8", "--mesh.data", "2", "--mesh.fsdp", "4"]
    path = tmp_path / "plan.json"
    assert main([*QUICKSTART, *given, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    for part in (
        "topology  cpu:8: 8 x cpu, mesh data 2, fsdp 4, tensor 1",
        "264 in the vocabulary: the built models' tokenizer",
        "24 rows of 48 tokens in 1 micro-batch",
        "all-gather",
        "its capacity is unknown",
    ):
        assert part in said
    found = json.loads(path.read_text())
    assert found["fits"] and found["devices"] == 8
    assert found["tokens_per_step"] == 24 * 48
    assert found["roofline_seconds"] is None
    memory = found["gib_per_device"]
    assert 0 < memory["arguments"] < memory["peak"]
    # Parameters, moments and the teacher, split over the 4 devices of fsdp.
    student = memory["parts"]["student parameters"]
    assert memory["parts"]["AdamW moments"] == pytest.approx(2 * student, rel=1e-3)
    parts = ("student parameters", "AdamW moments", "teacher parameters", "batch")
    whole = sum(memory["parts"][name] for name in parts)
    assert whole == pytest.approx(memory["arguments"], rel=1e-3)
    assert found["collectives_per_device_and_step"]["all-gather"]["bytes"] > 0


def test_a_plan_over_adapters(tmp_path, capsys):
    """ASFT's reference is the base: one model, and moments of adapters alone."""
    student = _architecture(tmp_path / "student", hidden_size=64, intermediate_size=96)
    given = [
        *("--topology", "cpu:8", "--mesh.data", "4", "--mesh.tensor", "2"),
        *("--student.path", student, "--target.name", "asft", "--lora.rank", "8"),
        *("--target.eta", "null", "--student.build", "null", "--compare", "[]"),
        *("--student.dtype", "bfloat16", "--lora.targets", "[q, v]"),
    ]
    path = tmp_path / "plan.json"
    assert main([*QUICKSTART, *given, "--json", str(path)]) == 0
    # q is 64 x 64 and v 64 x 32, in two layers of rank 8.
    numbers = 2 * 8 * (128 + 96)
    said = capsys.readouterr().out
    assert f"lora rank 8, alpha 32 on q, v: {numbers:,} of 9" in said
    found = json.loads(path.read_text())
    assert found["trained_parameters"] == numbers
    held = {name: gib * 2**30 for name, gib in found["gib_per_device"]["parts"].items()}
    assert not [name for name in held if name.startswith(("reference", "student"))]
    # A is whole where its kernel is split by columns, which are B's.
    adapters = 4 * 2 * 8 * (64 + 64 / 2 + 64 + 32 / 2)
    assert held["adapters"] == pytest.approx(adapters)
    assert held["AdamW moments"] == pytest.approx(2 * adapters, rel=1e-2)
    base = 2 * (512 * 64 + 2 * (64 * (64 + 64) + 64 * 64 + 3 * 64 * 96)) / 2
    assert held["base parameters"] == pytest.approx(base, rel=0.02)


def test_what_does_not_fit_is_said_with_a_remedy(capsys):
    assert main([*QUICKSTART, "--topology", "cpu:8", "--capacity", "0.01"]) == 3
    said = capsys.readouterr().out
    assert "does not fit" in said and "GiB too much; the three largest" in said
    assert (
        said.split("three largest parts\n")[1].split("what to change")[0].count("GiB")
        == 3
    )
    for key in ("train.remat full", "train.accumulation_steps 2", "mesh.fsdp 8"):
        assert key in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--topology", "v5e-16"], "expected cpu:N, or a generation and its bounds"),
        (["--topology", "cpu:2x2"], "expected cpu:N, such as cpu:8"),
        (["--topology", "cpu:8", "--num-slices", "2"], "cpu:N is one slice"),
        (["--topology", "cpu:8", "--train.remat", "ful"], "train.remat is 'ful'"),
        (["--topology", "cpu:8", "--train.batch_size", "3"], "does not divide"),
    ],
)
def test_bad_input_is_refused(arguments, said, capsys):
    assert main([*QUICKSTART, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_names_of_topologies():
    assert parse_topology("v5p:2x2x4") == ("v5p", (2, 2, 4))
    assert parse_topology("cpu:8") == ("cpu", (8,))
    for wrong in ("v5e", "v9:2x2", "v5e:0x4", "cpu:", "v5e:4*4"):
        with pytest.raises(TopologyError):
            parse_topology(wrong)


def test_without_the_tpu_compiler_the_remedy_is_said(monkeypatch, capsys):
    real = importlib.util.find_spec

    def without(name, package=None):
        return None if name == "libtpu" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert main([*QUICKSTART, "--topology", "v5e:2x4"]) == 1
    assert 'pip install -e ".[tpu]"' in capsys.readouterr().err


@needs_libtpu
@pytest.mark.slow
def test_a_plan_for_a_tpu_that_is_not_here(tmp_path, capsys):
    """Only config.json is read: there are no weights, and no tokenizer."""
    student = _architecture(tmp_path / "student")
    teacher = _architecture(tmp_path / "teacher", vocab_size=640, hidden_size=384)
    given = [
        *("--topology", "v5e:2x4", "--mesh.data", "1", "--mesh.fsdp", "-1"),
        *("--student.path", student, "--teacher.path", teacher),
        *("--data.max_length", "256", "--train.batch_size", "8"),
        *("--train.remat", "full", "--json", str(tmp_path / "plan.json")),
    ]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "8 x TPU v5 lite, mesh data 1, fsdp 8, tensor 1" in said
    assert "512 in the vocabulary: the smallest vocab_size" in said
    # The devices decide, not the host: bfloat16 and the TPU's own kernel.
    assert "splash attention" in said and "computed in bfloat16" in said
    assert "fits: 15." in said
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["gib_per_device"]["capacity"] == 15.75
    assert 0 < found["mfu_bound"] < 1
    assert found["roofline_seconds"]["step"] > 0


@needs_libtpu
def test_the_compiler_s_own_refusal_is_read(tmp_path, capsys):
    huge = _architecture(tmp_path / "huge", hidden_size=16384, num_hidden_layers=40)
    given = [
        *("--topology", "v5e:1x1", "--student.path", huge, "--target.name", "sft"),
        *("--data.max_length", "256", "--train.batch_size", "1", "--mesh.data", "1"),
    ]
    assert main(given) == 3
    said = capsys.readouterr().out
    assert "reported by the out-of-memory error" in said
    assert "GiB  AdamW moments" in said and "a larger topology" in said
