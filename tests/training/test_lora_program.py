"""Compiled LoRA step: no base gradients, no second copy of the base."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import optax
import pytest
from support import rig

from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.planning.flops import StepFlops, step_flops
from targetsft_jax.planning.hlo import read

LINEAR = optax.sgd(1e-2)
ROWS, LENGTH = 8, 16
TOKENS = ROWS * LENGTH
# All sizes differ from each other, from those of the batch and from the rank.
STUDENT = replace(
    rig.STUDENT,
    num_layers=3,
    hidden_size=72,
    intermediate_size=112,
    num_heads=6,
    head_dim=16,
    num_kv_heads=3,
    vocab_size=520,
    tie_word_embeddings=False,
)
TEACHER = replace(rig.OTHER, num_layers=5)
LORA = Lora(4, 8.0, ("q", "k", "v", "o", "gate", "up", "down"))
WIDTHS = {"q": (72, 96), "k": (72, 48), "gate": (72, 112)}
KERNELS = {*WIDTHS.values(), *((b, a) for a, b in WIDTHS.values())}


@lru_cache
def _lowered(
    method="target_sft", lora=LORA, on_base=(), frozen_dtype="float32", **changes
):
    roles = {"target_sft": {"teacher": TEACHER}, "asft": {"reference": STUDENT}}
    changes |= {"frozen": roles[method], "loss_chunk": TOKENS}
    spec = rig.make_spec(method, lora=lora, on_base=on_base, **changes)
    spec = replace(spec, student=STUDENT)
    return rig.lower(spec, LINEAR, rig.one_device(), ROWS, LENGTH, frozen_dtype)


@lru_cache
def _program(lora):
    # The blockwise kernel computes the scores twice, which model FLOPs do not count.
    lowered = _lowered(lora=lora, attention="xla")
    return read(lowered.compile(rig.QUICK).as_text())


def _gradients_of_kernels(program):
    return [dot for dot in program.dots if dot.shape.dims in KERNELS]


def test_no_product_is_the_gradient_of_a_kernel():
    """Control: the step without adapters has one per kernel."""
    assert not _gradients_of_kernels(_program(LORA))
    # One of q, k, v, o, gate, up and down each, in the loop over layers.
    gradients = _gradients_of_kernels(_program(None))
    assert len(gradients) == 7 and {dot.trips for dot in gradients} == {3}


def _expected(lora) -> StepFlops:
    return step_flops(
        STUDENT,
        [TEACHER],
        length=LENGTH,
        vocabulary=rig.VOCABULARY,
        mean_context=LENGTH,
        lora=lora,
    )


def test_layers_have_two_of_three_products():
    """FLOPs from the program; trip counts tell student from teacher loops."""
    flops = {}
    for lora in (LORA, None):
        program = _program(lora)
        student = [d for d in program.dots if d.loops and d.loops[0].trips == 3]
        flops[lora] = sum(dot.total for dot in student)
        expected = _expected(lora)
        assert flops[lora] == pytest.approx(TOKENS * expected.student, rel=0.01)
        assert program.flops == pytest.approx(TOKENS * expected.model, rel=0.03)
    small = flops[LORA] - TOKENS * 3 * 2 * _adapter_numbers()
    assert 2 / 3 < small / flops[None] < 0.7


def _adapter_numbers() -> int:
    pairs = ((72, 96), (72, 48), (72, 48), (96, 72), (72, 112), (72, 112), (112, 72))
    return 3 * 4 * sum(a + b for a, b in pairs)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_gradient_of_embedding_or_head_exists(remat):
    """Lowered over a bfloat16 base: no float32 [V, D]; without adapters there is."""
    shape = f"tensor<{STUDENT.vocab_size}x{STUDENT.hidden_size}xf32>"
    for lora in (LORA, None):
        lowered = _lowered(
            lora=lora, frozen_dtype="bfloat16", dtype=jnp.bfloat16, remat=remat
        )
        assert (shape in lowered.as_text()) == (lora is None)


def test_only_adapters_are_reduced_over_the_mesh():
    """FSDP gathers frozen matrices, and reduces only gradients of adapters."""
    spec = replace(rig.make_spec("sft", lora=LORA), student=STUDENT)
    lowered = rig.lower(spec, LINEAR, make_mesh(fsdp=8), ROWS, LENGTH)
    program = read(lowered.compile(rig.QUICK).as_text())
    layers = [c for c in program.collectives if [x.trips for x in c.loops] == [3]]
    summed = [s.dims for c in layers if "reduce" in c.kind for s in c.shapes]
    assert len(summed) == 14 and all(LORA.rank in dims for dims in summed)
    gathered = {s.dims for c in layers if c.kind == "all-gather" for s in c.shapes}
    assert KERNELS & gathered


@pytest.mark.slow
def test_a_reference_on_the_base_shares_its_arrays():
    """Bytes of the arguments: one model if shared, two otherwise."""
    one, two = (
        _lowered("asft", LORA, shared).compile(rig.QUICK).memory_analysis()
        for shared in (("reference",), ())
    )
    shapes = rig.decoder.abstract_params(STUDENT)
    model = sum(4 * x.size for x in jax.tree.leaves(shapes))
    more = two.argument_size_in_bytes - one.argument_size_in_bytes
    assert more == pytest.approx(model, rel=0.01)
    batch = TOKENS * (4 * 5 + 1)
    state = 4 * _adapter_numbers()
    assert one.argument_size_in_bytes == pytest.approx(model + state + batch, rel=0.02)
