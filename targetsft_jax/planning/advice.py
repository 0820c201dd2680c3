"""What a device's memory goes to, and what to change where it is not enough."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from targetsft_jax.config.schema import Config
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel.mesh import platform, row_shards
from targetsft_jax.planning.abstract_step import AbstractStep, bytes_per_device
from targetsft_jax.planning.chips import GIB
from targetsft_jax.planning.hlo.program import Program


@dataclass(frozen=True)
class Part:
    """A part of a device's memory: what it is, and its GiB."""

    what: str
    gib: float


def arguments(step: AbstractStep) -> list[Part]:
    """What the step is given: exact."""
    trained = "student parameters" if step.spec.lora is None else "adapters"
    held = {
        trained: step.state.params,
        "AdamW moments": step.state.optimizer,
        **{f"{name} policy": tree for name, tree in step.state.held.items()},
        **{f"{name} parameters": tree for name, tree in step.frozen.items()},
        "batch": step.batch,
    }
    return [Part(what, bytes_per_device(tree) / GIB) for what, tree in held.items()]


def temporaries(step: AbstractStep, program: Program | None) -> list[Part]:
    """The largest arrays that the step makes.

    From the compiled program; where the compiler gave up, from what the step is known
    to hold.
    """
    if program is None:
        return list(_expected(step))
    return [
        Part(f"{b.shape} of {b.source or b.op}", b.shape.bytes / GIB)
        for b in program.largest(3)
    ]


def advice(
    config: Config, step: AbstractStep, needed: float, capacity: float | None
) -> Iterator[str]:
    """What to change, what helps most and costs least first."""
    sizes, train = step.mesh.shape, config.train
    rows = _rows(step)
    if train.remat != "full":
        yield "train.remat full: keep nothing of a layer but its input"
    if rows > 1:
        fewer = train.accumulation_steps * 2
        yield (
            f"train.accumulation_steps {fewer}: each device has {rows} rows at a time"
        )
    if sizes["data"] > 1:
        both = row_shards(step.mesh)
        yield f"mesh.data 1, mesh.fsdp {both}: split parameters over all devices"
    if _portable(step):
        yield (
            "data.max_length a multiple of 128 and train.attention auto: the portable "
            "attention holds all scores of a layer"
        )
    state = sum(part.gib for part in arguments(step))
    if capacity is not None and state > capacity / 2:
        more = step.mesh.size * state / (capacity / 2)
        yield (
            f"a larger topology: parameters and moments alone take {state:.1f} GiB a "
            f"device; {2 ** math.ceil(math.log2(more))} devices bring them to half"
        )
    if rows == 1 and sizes["tensor"] == 1:
        yield "mesh.tensor 2: two devices share a row's heads and MLP"
    if step.spec.loss_chunk > 512:
        yield f"train.loss_chunk {step.spec.loss_chunk // 2}: fewer logits at a time"
    if step.roles["student"].dtype.itemsize == 4:
        less = "" if step.spec.lora else ", and less exact updates"
        yield f"student.dtype bfloat16: half the parameters{less}"
    if step.spec.lora is None:
        yield "lora.rank 16: adapters alone have gradients and moments"
    yield "data.max_length: shorter rows"


def _expected(step: AbstractStep) -> Iterator[Part]:
    spec, tensor = step.spec, step.mesh.shape["tensor"]
    student = spec.student
    rows, length = _rows(step), step.batch["tokens"].shape[-1]
    size = spec.dtype.itemsize
    wide = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, "float32", sharding=x.sharding),
        step.state.params,
    )
    yield Part("float32 gradients", bytes_per_device(wide) / GIB)
    states = rows * length * student.hidden_size * size
    kept = states * student.num_layers
    if spec.remat == "full":
        yield Part("inputs of all layers, kept for the backward pass", kept / GIB)
    else:
        wide = 3 * student.intermediate_size / tensor / student.hidden_size
        yield Part(f"layers' values under remat {spec.remat}", kept * (4 + wide) / GIB)
    if _portable(step):
        scores = rows * student.num_heads / tensor * length * length * 4
        yield Part("attention scores of one layer", scores / GIB)
    models = (student, *spec.frozen.values())
    heads = sum(m.hidden_size for m in models) * size
    columns = (spec.vocab_size or student.vocab_size) / tensor
    group = spec.vocab_group or 1
    yield Part("heads in the loss", heads * columns / group / GIB)
    chunk = spec.loss_chunk * columns / group * 4 * len(models)
    yield Part("logits of one chunk", chunk / GIB)


def _portable(step: AbstractStep) -> bool:
    """Whether the student's attention holds all scores."""
    spec, length = step.spec, step.batch["tokens"].shape[-1]
    kind = platform(step.mesh)
    taken = choose(spec.attention, kind, spec.student, length, spec.dtype)
    return taken == "xla" and kind != "cpu"


def _rows(step: AbstractStep) -> int:
    """Rows of a micro-batch on each device."""
    tokens = step.batch["tokens"]
    return tokens.sharding.shard_shape(tokens.shape)[1]
