"""Fixtures of plans: programs are compiled quickly and once per process."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support import rig
from support.quick import QUICK

from targetsft_jax.parallel.mesh import make_mesh, tokens_over
from targetsft_jax.planning import plan as plan_module
from targetsft_jax.planning.abstract_step import AbstractRole, AbstractStep
from targetsft_jax.training.state import TrainState

_programs: dict[str, Any] = {}


@dataclass(frozen=True)
class CompiledOnce:
    """A lowered program with a compilation cache shared by all tests."""

    lowered: Any
    options: dict

    def compile(self):
        """Compile, or return the cached program."""
        text = self.lowered.as_text()
        if text not in _programs:
            _programs[text] = self.lowered.compile(compiler_options=self.options)
        return _programs[text]


@pytest.fixture(scope="session", autouse=True)
def compile_once():
    """Share the compiled program between plans of the same step."""
    # Initialize jax with eight CPU devices before a command changes their number.
    assert len(jax.devices()) == 8
    real = plan_module.abstract_step

    def abstract_step(config, mesh, *store):
        step = real(config, mesh, *store)
        options = QUICK if mesh.devices.flat[0].platform == "cpu" else {}
        return replace(step, lowered=CompiledOnce(step.lowered, options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "abstract_step", abstract_step)
        yield


@pytest.fixture(scope="session")
def write_architecture():
    """Writer of model folders with config.json, without weights and tokenizer."""

    def write(folder: Path, **changes) -> str:
        folder.mkdir()
        config = {
            "model_type": "qwen2",
            "vocab_size": 512,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        }
        (folder / "config.json").write_text(json.dumps(config | changes))
        return str(folder)

    return write


@pytest.fixture(scope="session")
def make_step():
    """Factory of untraced steps: two parameters over fsdp, rows of 64 tokens."""

    def make(spec=None, *, mesh=None, rows=8, length=64) -> AbstractStep:
        mesh = mesh or make_mesh(data=2, fsdp=2, tensor=2)
        dtype = jnp.dtype("float32")
        spec = spec or rig.make_spec("sft", loss_chunk=16, dtype=dtype, vocab_size=None)
        over_fsdp = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))

        def array(*shape, dtype="bfloat16", sharding=over_fsdp):
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        params = {"kernel": array(64, 32), "norm": array(32)}
        moments = jax.tree.map(lambda x: array(*x.shape, dtype="float32"), params)
        tokens = array(2, rows, length, dtype="int32", sharding=tokens_over(mesh, 1))
        return AbstractStep(
            spec=spec,
            roles={"student": AbstractRole(spec.student, dtype, "a test")},
            vocabulary_origin="a test",
            state=TrainState(array(2, dtype="int32"), params, (moments, moments)),
            frozen={"teacher": {"kernel": array(128, 32)}},
            batch={"tokens": tokens},
            mesh=mesh,
            lowered=None,
        )

    return make
