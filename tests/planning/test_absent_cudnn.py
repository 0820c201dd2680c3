"""cuDNN attention lowered for GPUs that are absent, on a mesh and alone."""

import jax
import jax.numpy as jnp
import optax
import pytest
from support import rig

from targetsft_jax.models import kernels, sharded_attention
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning import absent_cudnn as module
from targetsft_jax.planning.absent_cudnn import absent_cudnn
from targetsft_jax.planning.gpus import GPUS


def lowered(gpu, function, *arguments) -> str:
    """Text of a function that is lowered for a GPU on this machine."""
    with absent_cudnn(gpu):
        # A new function, so that jax has not traced it before.
        traced = jax.jit(lambda *arrays: function(*arrays)).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def rows(heads=4, length=128):
    x = jax.ShapeDtypeStruct((2, length, heads, 64), jnp.bfloat16)
    return x, x, x, jax.ShapeDtypeStruct((2, length), jnp.int32)


def test_cudnn_is_called_without_cudnn():
    assert "__cudnn$fmha" in lowered(GPUS["h100"], kernels.cudnn, *rows())
    with pytest.raises(RuntimeError, match="cuDNN is not detected"):
        lowered(None, kernels.cudnn, *rows())


def test_a_version_of_jax_with_other_questions_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MODULE", "jax.numpy")
    with pytest.raises(ValueError, match="has no check_cudnn_version.*pallas_gpu"):
        with absent_cudnn(GPUS["h200"]):
            pass


def test_a_step_on_a_mesh_of_gpus_has_one_mesh(monkeypatch):
    """jax lowers calls of cuDNN only if all shardings of a program have one mesh."""
    monkeypatch.setattr(sharded_attention, "platform", lambda mesh: "gpu")
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    for attention in ("cudnn", "cudnn_packed"):
        spec = rig.make_spec("target_sft", dtype=jnp.dtype("bfloat16"))
        spec = rig.with_numerics(spec, attention=attention)
        with absent_cudnn(GPUS["h100"]):
            text = rig.lower(
                spec, optax.sgd(1e-2), mesh, 8, 64, platforms=("cuda",)
            ).as_text()
        # Forward and backward of the student, forward of the teacher.
        assert text.count("__cudnn$fmha") >= 3
