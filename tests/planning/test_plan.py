"""The plan of small configurations, and the figures that can be had otherwise."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.plan import main
from targetsft_jax.planning import report
from targetsft_jax.planning.flops import head_flops, layers_flops, step_flops
from targetsft_jax.planning.program import read

ROOT = Path(__file__).parents[2]
QWEN = DecoderConfig(152064, 3584, 18944, 28, 28, 4, tie_word_embeddings=False)


def test_layers_cost_what_their_compiled_products_do():
    """An unmasked forward pass, whose attention computes the whole square."""
    config = DecoderConfig(64, 32, 96, num_layers=3, num_heads=4, num_kv_heads=2)
    length = 16
    params = jax.eval_shape(lambda: decoder.init_params(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    run = jax.jit(lambda p, t: decoder.apply(config, p, t))
    program = read(run.lower(params, tokens).compile().as_text())
    # Causal attention is counted as (length + 1) / 2 of length keys.
    square = config.num_layers * 2 * 2 * 32 * (length - (length + 1) / 2)
    wanted = length * (layers_flops(config, length) + square)
    np.testing.assert_allclose(program.flops, wanted, rtol=0.03)


def test_a_step_of_seven_billion():
    """6.53e9 parameters in layers, two FLOPs each; attention by hand."""
    layers = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    attention = 28 * 2 * 2 * 3584 * 4097 / 2
    np.testing.assert_allclose(layers_flops(QWEN, 4096), 2 * layers + attention)
    flops = step_flops(QWEN, [QWEN], 4096)
    assert flops.total == flops.student + flops.frozen + flops.heads
    np.testing.assert_allclose(flops.student, 3 * flops.frozen)
    assert flops.heads == 4 * head_flops(QWEN) == 4 * 2 * 152064 * 3584


SMALL = [
    "--config",
    str(ROOT / "configs" / "quickstart.yaml"),
    "--mesh.fsdp",
    "4",
    "--mesh.data",
    "2",
]


def test_plan_on_cpu_devices(capsys, tmp_path):
    path = tmp_path / "plan.json"
    assert main([*SMALL, "--topology", "cpu:8", "--json", str(path)]) == 0
    said = capsys.readouterr().out
    for part in ("'fsdp': 4", "24 rows of 48 tokens", "264 tokens", "all-gather"):
        assert part in said
    figures = json.loads(path.read_text())
    assert figures["fits"] and figures["tokens_per_step"] == 24 * 48
    assert figures["collectives"]["reduce-scatter"]["bytes"] > 0


def test_what_is_larger_than_the_device_does_not_fit(capsys, monkeypatch):
    from targetsft_jax.planning import chips

    tiny = chips.Chip(memory=1e4, flops=1e12, bandwidth=1e11, links=1e10)
    monkeypatch.setattr(chips, "CHIPS", {"cpu": tiny})
    assert main([*SMALL, "--topology", "cpu:8"]) == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said and "--train.remat full" in said
    assert "MFU is at most" in said


def test_wrong_topologies_are_refused(capsys):
    assert main([*SMALL, "--topology", "v9x:2"]) == 2
    assert "v9x:2" in capsys.readouterr().err
    assert main([*SMALL, "--topology", "cpu:8", "--mesh.fsdp", "3"]) == 2
    assert "mesh" in capsys.readouterr().err


def test_allocations_are_read_from_the_compilers_message():
    message = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.
  1. Size: 1.09G
     Operator: op_name="jit(step)/dot" source_file="x"
     Shape: bf16[152064,3584]{1,0}
  2. Size: 512.0M
     Shape: f32[64,64]{1,0}
"""
    first, second = report.allocations(message)
    assert "1.09 GiB  bf16[152064,3584]{1,0}" in first and "jit(step)/dot" in first
    assert "0.50 GiB" in second


def test_a_tpu_that_is_not_here(capsys):
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    arguments = [
        *("--config", str(ROOT / "configs" / "qwen2.5_7b.yaml")),
        *("--student.path", str(_tiny()), "--teacher.path", str(_tiny())),
        *("--topology", "v5e:2x4", "--data.path", "x.jsonl"),
        *("--data.max_length", "256", "--train.batch_size", "8"),
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "of 15.75: fits" in said and "MFU is at most" in said


def _tiny() -> Path:
    return ROOT / "tests" / "planning" / "tiny"
