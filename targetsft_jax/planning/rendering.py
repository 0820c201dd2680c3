"""Render a plan as text or JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from targetsft_jax.checkpoints.stored_teacher import TEACHER
from targetsft_jax.data.teacher_cache import CacheHeader
from targetsft_jax.models import lora
from targetsft_jax.models.decoder import num_parameters
from targetsft_jax.models.kernels import choose
from targetsft_jax.parallel.mesh import platform
from targetsft_jax.parallel.zigzag import busiest, zigzag_slots
from targetsft_jax.planning.flops import active_parameters
from targetsft_jax.planning.plan import Plan


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from _setup(plan)
    yield from _memory(plan)
    yield from _flops(plan)
    yield from _traffic(plan)
    yield from _roofline(plan)
    yield from _verdict(plan)


def write_json(plan: Plan, path: Path) -> None:
    """Write `as_json` to a file; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(plan), indent=2) + "\n", "utf-8")


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the numbers of the report; bytes, FLOPs, GiB and seconds as named."""
    memory, flops, cost, roofline = plan.memory, plan.flops, plan.cost, plan.roofline
    return {
        "topology": plan.topology.name,
        "slices": plan.topology.slices,
        "devices": len(plan.topology.devices),
        "mesh": dict(plan.step.mesh.shape),
        "method": plan.step.spec.method.name,
        "trained_parameters": sum(
            leaf.size for leaf in jax.tree.leaves(plan.step.state.params)
        ),
        "fits": memory.fits,
        "seconds": {"lower": plan.lower_seconds, "compile": plan.compile_seconds},
        "gib_per_device": {
            "arguments": memory.arguments,
            "temporaries": memory.temporaries,
            "peak": memory.peak,
            "needed": memory.needed,
            "capacity": memory.capacity,
            "parts": {part.name: part.gib for part in plan.parts},
        },
        "tokens_per_step": plan.tokens_per_step,
        "flops_per_token": {
            "student": flops.student,
            "frozen": flops.frozen,
            "int8": flops.int8,
            "heads": flops.heads,
            "model": flops.model,
            "recomputed": flops.recomputed,
        },
        "flops_per_step": flops.model * plan.tokens_per_step,
        "hbm_bytes_per_device_and_step": None if cost is None else cost.hbm_bytes,
        "collectives_per_device_and_step": {
            kind: {
                "count": traffic.count,
                "bytes": traffic.bytes,
                "dcn_bytes": traffic.dcn_bytes,
            }
            for kind, traffic in (cost.traffic if cost else {}).items()
        },
        "roofline_seconds": None
        if roofline is None
        else {
            "compute": roofline.compute,
            "hbm": roofline.hbm,
            "ici": roofline.ici,
            "dcn": roofline.dcn,
            "host": roofline.host,
            "step": roofline.seconds,
        },
        "mfu_bound": plan.mfu_bound,
        "advice": list(plan.advice),
    }


def _setup(plan: Plan) -> Iterator[str]:
    step, config, devices = plan.step, plan.config, plan.topology.devices
    spec, train, length = step.spec, config.train, config.data.max_length
    sizes = ", ".join(f"{name} {size}" for name, size in step.mesh.shape.items())
    count, word = plan.topology.slices, plan.topology.slice_name
    slices = f", {count} {word}s" if count > 1 else ""
    kind = getattr(devices[0], "device_kind", "device")
    yield f"method    {spec.method.name}"
    yield (
        f"topology  {plan.topology.name}{slices}: {len(devices)} x {kind}, mesh {sizes}"
    )
    for name, role in step.roles.items():
        size = num_parameters(role.config) / 1e6
        kernel = choose(
            train.attention,
            platform(step.mesh),
            role.config,
            step.row_length(name),
            spec.numerics.dtype,
            step.mesh.shape["context"],
        )
        precision = f"int8 and {role.dtype}" if role.int8 else str(role.dtype)
        active = ""
        if role.config.num_experts:
            active = f" ({active_parameters(role.config) / 1e6:,.1f}M per token)"
        yield (
            f"{name:<9} {size:,.1f}M parameters{active} in {precision}, {kernel} "
            f"attention, {role.origin}"
        )
        if name == "student" and spec.lora is not None:
            yield f"{'':<9} {lora.trainable(role.config, spec.lora)}"
    if spec.stored is not None:
        cache = CacheHeader(spec.stored.kind, spec.stored.width, 0, {})
        entry = f"{cache.entry_bytes:,} bytes per trained token"
        yield f"teacher   stored: {cache}, {entry}"
    yield f"tokens    {spec.vocab_size:,} in the vocabulary: {step.vocabulary_origin}"
    steps = train.accumulation_steps
    yield (
        f"batch     {train.batch_size} rows of {length:,} tokens in {steps} "
        f"{'micro-batch' if steps == 1 else 'micro-batches'}, computed in "
        f"{spec.numerics.dtype}, remat {spec.numerics.remat}"
    )
    if spec.teacher_rows:
        yield f"{'':<9} of the teacher: rows of {step.row_length(TEACHER):,} tokens"
    context = step.mesh.shape["context"]
    if context > 1:
        plain = busiest(np.arange(length), context)
        yield (
            f"context   {context} devices share each row; in zig-zag order the busiest "
            f"has {busiest(zigzag_slots(length, context), context):.2f} of the mean "
            f"causal attention, not {plain:.2f}"
        )
    yield (
        f"compiled  in {plan.compile_seconds:.0f} s, "
        f"lowered in {plan.lower_seconds:.0f} s"
    )


def _memory(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield ""
    yield "memory, GiB per device"
    yield f"  arguments    {memory.arguments:8.2f}   state, frozen parameters, batch"
    if memory.temporaries is not None:
        yield (
            f"  temporaries  {memory.temporaries:8.2f}   "
            "compiler's peak, buffers reused"
        )
    if memory.peak is None:
        yield (
            f"  needed       {memory.needed:8.2f}   reported by the out-of-memory error"
        )
    else:
        yield f"  peak         {memory.peak:8.2f}   live at one time"
    if memory.capacity is not None:
        note = ""
        if plan.topology.gpu is not None:
            note = "   of it XLA_PYTHON_CLIENT_MEM_FRACTION, by default 75 %, is used"
        yield f"  capacity     {memory.capacity:8.2f}{note}"


def _flops(plan: Plan) -> Iterator[str]:
    flops, tokens = plan.flops, plan.tokens_per_step
    yield ""
    yield "model FLOPs, attention causal, recomputation not counted"
    yield (
        f"  per token    {flops.model:.3g} = student {flops.student:.3g} + frozen "
        f"{flops.frozen:.3g} + heads {flops.heads:.3g}"
    )
    per_device = flops.model * tokens / len(plan.topology.devices)
    yield f"  per step     {flops.model * tokens:.3g}, {per_device:.3g} per device"
    if flops.recomputed:
        yield f"  remat adds   {flops.recomputed:.3g} per token"


def _traffic(plan: Plan) -> Iterator[str]:
    if plan.cost is None:
        return
    yield ""
    several = plan.topology.slices > 1
    between = f" {'between ' + plan.topology.slice_name + 's':>16}" if several else ""
    yield (
        f"{'collectives per device per step':<34} {'count':>6} {'GB sent':>14}{between}"
    )
    for kind, traffic in plan.cost.traffic.items():
        dcn = f" {traffic.dcn_bytes / 1e9:16.3f}" if several else ""
        yield f"  {kind:<28} {traffic.count:10,} {traffic.bytes / 1e9:14.3f}{dcn}"
    if not plan.cost.traffic:
        yield "  none"
    if plan.cost.program.unknown_loops:
        yield "  (the loop over loss chunks is counted with its maximum trip count)"


def _roofline(plan: Plan) -> Iterator[str]:
    if plan.topology.gpu is not None:
        yield ""
        yield "no bounds of time: XLA chooses and tunes kernels on the GPU only;"
        yield "workspaces of cuDNN and NCCL are not counted"
    cost, roofline, chip = plan.cost, plan.roofline, plan.topology.chip
    if cost is None or roofline is None or chip is None:
        return
    yield ""
    yield "roofline: lower bounds of the step time"
    int8 = ""
    if plan.flops.int8:
        int8 = f", int8 at {(chip.int8_rate or chip.flops) / 1e12:.0f} TOP/s"
    yield (
        f"  compute      {roofline.compute:8.3f} s   recomputation included, at "
        f"{chip.flops / 1e12:.0f} TFLOP/s{int8}"
    )
    yield (
        f"  HBM          {roofline.hbm:8.3f} s   about {cost.hbm_bytes / 1e9:.0f} GB "
        f"at {chip.hbm_bandwidth / 1e9:.0f} GB/s"
    )
    yield (
        f"  ICI          {roofline.ici:8.3f} s   all links at "
        f"{chip.ici_bandwidth / 1e9:.0f} GB/s"
    )
    if plan.topology.slices > 1:
        yield (
            f"  DCN          {roofline.dcn:8.3f} s   between slices, at "
            f"{chip.dcn_bandwidth / 1e9:.3f} GB/s per device"
        )
    if roofline.host:
        yield (
            f"  host         {roofline.host:8.3f} s   activations to its memory and "
            f"back, at {chip.host_bandwidth / 1e9:.0f} GB/s"
        )
    pace = plan.tokens_per_step / roofline.seconds
    of_rate = " of the bfloat16 rate" if plan.flops.int8 else ""
    yield (
        f"  step time at least {roofline.seconds:.3f} s: at most "
        f"{pace:,.0f} tokens/s, MFU {100 * (plan.mfu_bound or 0):.0f} %{of_rate}"
    )


def _verdict(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield ""
    if memory.capacity is None:
        yield f"peak {memory.needed:.2f} GiB per device; its capacity is unknown"
        return
    spare = memory.capacity - memory.needed
    if memory.fits:
        yield f"fits: {spare:.2f} GiB to spare" + (
            ", below the 1 GiB that other programs need" if spare < 1 else ""
        )
        return
    yield f"does not fit: {-spare:.2f} GiB too much; largest contributions:"
    for part in plan.parts[:3]:
        yield f"  {part.gib:8.2f} GiB  {part.name}"
    yield "suggested changes:"
    for line in plan.advice:
        yield f"  {line}"
