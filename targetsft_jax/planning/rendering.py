"""A plan as text, and as JSON."""

from collections.abc import Iterator
from typing import Any

import jax

from targetsft_jax.models import lora
from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel.mesh import platform
from targetsft_jax.planning.plan import Plan


def lines(plan: Plan) -> Iterator[str]:
    """The report, a line at a time."""
    yield from _what(plan)
    yield from _memory(plan)
    yield from _flops(plan)
    yield from _traffic(plan)
    yield from _roofline(plan)
    yield from _verdict(plan)


def as_json(plan: Plan) -> dict[str, Any]:
    """The numbers of a report, by name; bytes and FLOPs whole, times in seconds."""
    memory, flops, roof = plan.memory, plan.flops, plan.roofline
    return {
        "topology": plan.topology.name,
        "devices": len(plan.topology.devices),
        "mesh": dict(plan.step.mesh.shape),
        "method": plan.step.spec.method,
        "trained_parameters": sum(
            leaf.size for leaf in jax.tree.leaves(plan.step.state.params)
        ),
        "fits": memory.fits,
        "seconds": {"lower": plan.lowering, "compile": plan.compiling},
        "gib_per_device": {
            "arguments": memory.arguments,
            "temporaries": memory.temporaries,
            "peak": memory.peak,
            "needed": memory.needed,
            "capacity": memory.capacity,
            "parts": {part.what: part.gib for part in plan.parts},
        },
        "tokens_per_step": plan.tokens,
        "flops_per_token": {
            "student": flops.student,
            "frozen": flops.frozen,
            "heads": flops.heads,
            "model": flops.model,
            "recomputed": flops.again,
        },
        "flops_per_step": flops.model * plan.tokens,
        "hbm_bytes_per_device_and_step": plan.hbm_bytes,
        "collectives_per_device_and_step": {
            kind: {"count": t.count, "bytes": t.bytes}
            for kind, t in plan.traffic.items()
        },
        "roofline_seconds": None
        if roof is None
        else {
            "compute": roof.compute,
            "hbm": roof.hbm,
            "ici": roof.ici,
            "step": roof.seconds,
        },
        "mfu_bound": plan.mfu,
        "advice": list(plan.advice),
    }


def _what(plan: Plan) -> Iterator[str]:
    step, config, devices = plan.step, plan.config, plan.topology.devices
    spec, train, length = step.spec, config.train, config.data.max_length
    sizes = ", ".join(f"{name} {size}" for name, size in step.mesh.shape.items())
    slices = f", {plan.topology.slices} slices" if plan.topology.slices > 1 else ""
    kind = getattr(devices[0], "device_kind", "device")
    yield f"method    {spec.method}"
    yield (
        f"topology  {plan.topology.name}{slices}: {len(devices)} x {kind}, mesh {sizes}"
    )
    for name, role in step.roles.items():
        size = num_parameters(role.config) / 1e6
        kernel = choose(
            train.attention, platform(step.mesh), role.config, length, spec.dtype
        )
        yield (
            f"{name:<9} {size:,.1f}M parameters in {role.dtype}, {kernel} attention, "
            f"{role.origin}"
        )
        if name == "student" and spec.lora is not None:
            yield f"{'':<9} {lora.trainable(role.config, spec.lora)}"
    yield f"tokens    {spec.vocab_size:,} in the vocabulary: {step.vocabulary_from}"
    parts = "micro-batch" if train.accumulation_steps == 1 else "micro-batches"
    yield (
        f"batch     {train.batch_size} rows of {length:,} tokens in "
        f"{train.accumulation_steps} {parts}, computed in "
        f"{spec.dtype}, remat {spec.remat}"
    )
    yield f"compiled  in {plan.compiling:.0f} s, lowered in {plan.lowering:.0f} s"


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield ""
    yield "memory, GiB a device"
    yield f"  arguments    {memory.arguments:8.2f}   state, frozen parameters, batch"
    if memory.temporaries is not None:
        yield f"  temporaries  {memory.temporaries:8.2f}   all else, one after another"
    if memory.peak is None:
        yield f"  needed       {memory.needed:8.2f}   when the compiler gave up"
    else:
        yield f"  peak         {memory.peak:8.2f}   at the same time"
    if memory.capacity is not None:
        yield f"  capacity     {memory.capacity:8.2f}"


def _flops(plan: Plan) -> Iterator[str]:
    flops, tokens = plan.flops, plan.tokens
    yield ""
    yield "model FLOPs, attention causal, nothing counted twice"
    yield (
        f"  a token      {flops.model:.3g} = student {flops.student:.3g} + frozen "
        f"{flops.frozen:.3g} + heads {flops.heads:.3g}"
    )
    each = flops.model * tokens / len(plan.topology.devices)
    yield f"  a step       {flops.model * tokens:.3g}, {each:.3g} a device"
    if flops.again:
        yield f"  remat adds   {flops.again:.3g} a token, which are not model FLOPs"


def _traffic(plan: Plan) -> Iterator[str]:
    if plan.program is None:
        return
    yield ""
    yield "collectives, a device and step      count        GB sent"
    for kind, traffic in plan.traffic.items():
        yield f"  {kind:<28} {traffic.count:10,} {traffic.bytes / 1e9:14.3f}"
    if not plan.traffic:
        yield "  none"
    if plan.program.unknown_loops:
        yield "  (a loop that ends early is counted with all its turns)"


def _roofline(plan: Plan) -> Iterator[str]:
    roof, chip = plan.roofline, plan.topology.chip
    if roof is None or chip is None:
        return
    yield ""
    yield "roofline: a bound, no prediction"
    yield (
        f"  compute      {roof.compute:8.3f} s   remat included, at "
        f"{chip.flops / 1e12:.0f} TFLOP/s"
    )
    moved = (plan.hbm_bytes or 0) / 1e9
    yield (
        f"  HBM          {roof.hbm:8.3f} s   about {moved:.0f} GB "
        f"at {chip.hbm_bandwidth / 1e9:.0f} GB/s"
    )
    links = "" if plan.topology.slices == 1 else ", the network of slices left out"
    yield (
        f"  ICI          {roof.ici:8.3f} s   all links at "
        f"{chip.ici_bandwidth / 1e9:.0f} GB/s{links}"
    )
    yield (
        f"  a step takes at least {roof.seconds:.3f} s: at most "
        f"{plan.tokens / roof.seconds:,.0f} tokens/s, MFU {100 * (plan.mfu or 0):.0f} %"
    )


def _verdict(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield ""
    if memory.capacity is None:
        yield f"peak {memory.needed:.2f} GiB a device; its capacity is not known"
        return
    spare = memory.capacity - memory.needed
    if memory.fits:
        yield f"fits: {spare:.2f} GiB to spare" + (
            ", less than the 1 GiB that other programs need" if spare < 1 else ""
        )
        return
    yield f"does not fit: {-spare:.2f} GiB too much; the three largest"
    for part in plan.parts[:3]:
        yield f"  {part.gib:8.2f} GiB  {part.what}"
    yield "what to change"
    for line in plan.advice:
        yield f"  {line}"
