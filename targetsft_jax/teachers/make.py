"""Make a teacher cache: run the teacher over the rows, shard by shard."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import Array

from targetsft_jax.command import Stopped
from targetsft_jax.config.roles import INT8
from targetsft_jax.config.schema import Config
from targetsft_jax.data import packing
from targetsft_jax.data.examples import MASK, Arrays
from targetsft_jax.data.teacher_cache import (
    CONFIG,
    FILE,
    HEAD,
    STATES,
    TOP_K,
    CacheHeader,
    read_shard,
    shard_folder,
    write_shard,
)
from targetsft_jax.loss import TopK, top_k_tokens
from targetsft_jax.models import decoder
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import preemption, processes
from targetsft_jax.parallel.preemption import RaisedSignals
from targetsft_jax.parallel.zigzag import in_slot_order
from targetsft_jax.storage import array_folder, atomic
from targetsft_jax.storage.disk_full import lacks_space
from targetsft_jax.storage.shared_folder import upload
from targetsft_jax.teachers.plan import CachePlan, SectionPlan, plan_cache
from targetsft_jax.telemetry.compilation_cache import use_compilation_cache
from targetsft_jax.training.micro_batch import Numerics, Placement, StepSpec, forward
from targetsft_jax.training.state import Params
from targetsft_jax.training.step_spec import compute_dtype, loss_chunk

Measure = Callable[[Params, Mapping[str, Array]], Any]


def make_cache(config: Config, kind: str = TOP_K, k: int = 64) -> None:
    """Run the teacher of a configuration over its data, and store its distributions.

    Complete shards of an earlier call stay; damaged ones are made again. All processes
    of a run compute together, and the primary one writes.

    Args:
        config: configuration of the run, with `teacher.cache`, the folder to write.
        kind: `TOP_K` for the k most probable tokens, `STATES` for hidden states.
        k: number of tokens.

    Raises:
        ConfigError, UsageError, ValueError, OSError: a key, model, file or the folder
            cannot be used.
        Stopped: on SIGTERM or Ctrl-C; complete shards stay.
    """
    with RaisedSignals():
        try:
            use_compilation_cache(config.cache_dir)
            plan = plan_cache(config, kind, k)
            _fill(plan)
        except Stopped as stop:
            raise stop.with_details(
                f"complete shards in {config.teacher.cache} stay, and the same command "
                "continues"
            ) from None
        except OSError as error:
            if not lacks_space(error):
                raise
            raise OSError(
                f"no space left for teacher.cache {config.teacher.cache}: {error}. "
                "Complete shards stay; free some space, and the same command continues"
            ) from error


def _fill(plan: CachePlan) -> None:
    """Make the shards that are missing or damaged."""
    missing = [(section, _missing(section)) for section in plan.sections]
    begun = [_is_begun(section) for section in plan.sections]
    for section, shards in missing:
        header = section.header
        done = f", {header.shards - len(shards)} of them complete"
        print(
            f"{section.folder}: {header} of {section.layout.rows:,} rows in "
            f"{header.shards} shards{done if len(shards) < header.shards else ''}"
        )
    if not any(shards for _, shards in missing) and all(begun):
        print("nothing to do")
        return
    if processes.is_primary():
        for section in plan.sections:
            _check_writable(section.folder)
    print(f"teacher {plan.teacher.source}, {INT8 if plan.int8 else plan.dtype}")
    params = plan.teacher.load(plan.mesh, plan.dtype, int8=plan.int8)
    for (section, shards), is_begun in zip(missing, begun):
        if is_begun and not shards:
            continue
        _begin(plan, section, params)
        progress = _Progress(section, len(shards))
        measure = _measure(plan, section.header)
        for shard in shards:
            entries = _entries(plan, section, section.rows(shard), params, measure)
            numbers, counts = section.segments(section.rows(shard))
            if processes.is_primary():
                write_shard(
                    section.folder, section.header, shard, entries, numbers, counts
                )
                _upload(plan, shard_folder(section.folder, shard))
            progress.show(shard, int(counts.sum()))
    processes.barrier("the teacher cache is complete")
    print(f"complete; train with --teacher.cache {plan.config.teacher.cache}")


def _check_writable(folder: Path) -> None:
    """Check that shards can be written, before the teacher is loaded.

    Raises:
        OSError: the folder cannot be created or written.
    """
    reason = "it is not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
    raise PermissionError(
        f"teacher.cache cannot be written in {folder}: {reason}; expected a folder "
        "that this user may write"
    )


def _is_begun(section: SectionPlan) -> bool:
    """True if a section has all that `_begin` writes; a damaged head is removed.

    Process 0 decides, since it writes.
    """
    folder = section.folder
    begun = (folder / FILE).is_file()
    if section.header.kind == STATES:
        try:
            begun &= array_folder.read(folder / HEAD) is not None
            begun &= (folder / CONFIG).is_file()
        except array_folder.Damaged as error:
            print(f"damaged, made again: {error}")
            begun = False
            if processes.is_primary():
                atomic.discard(folder / HEAD)
    return processes.gather_text(str(begun))[0] == "True"


def _missing(section: SectionPlan) -> list[int]:
    """Shards that do not exist or are damaged; those are removed and reported.

    Raises:
        ValueError: a shard of other rows.
    """
    missing = []
    for shard in range(section.header.shards):
        try:
            stored = read_shard(section.folder, section.header, shard)
        except array_folder.Damaged as error:
            print(f"damaged, made again: {error}")
            stored = None
            if processes.is_primary():
                atomic.discard(shard_folder(section.folder, shard))
        if stored is None:
            missing.append(shard)
        else:
            _check_same_rows(section, shard, stored)
    # Process 0 decides, since it writes.
    return [
        int(x)
        for x in processes.gather_text(",".join(map(str, missing)))[0].split(",")
        if x
    ]


def _check_same_rows(section: SectionPlan, shard: int, stored: Arrays) -> None:
    """Check that a shard has the examples, and of each the tokens, of its rows.

    Raises:
        ValueError: it has others, so that shards that are made now would not fit it.
    """
    segments = section.segments(section.rows(shard))
    for name, expected in zip(("examples", "counts"), segments):
        if not np.array_equal(stored[name], expected):
            raise ValueError(
                f"{shard_folder(section.folder, shard)} has other rows than "
                "data.max_length, data.overlong and teacher.prompt give; restore these "
                "keys, or choose another teacher.cache"
            )


def _begin(plan: CachePlan, section: SectionPlan, params: Params) -> None:
    """Write the header of a section, and the teacher's head beside hidden states."""
    head = None
    if section.header.kind == STATES:
        head = processes.to_host(decoder.head(params))
    if not processes.is_primary():
        return
    section.header.write(section.folder)
    if head is not None:
        config = section.folder / CONFIG
        shutil.copyfile(plan.teacher.folder / CONFIG, config)
        with array_folder.writing(section.folder / HEAD) as writer:
            flat = head.astype(ml_dtypes.bfloat16).view(np.uint16).reshape(-1)
            writer.append({"head": flat})
            writer.close({"shape": list(head.shape)})
        _upload(plan, config)
        _upload(plan, section.folder / HEAD)
    _upload(plan, section.folder / FILE)


def _upload(plan: CachePlan, path: Path) -> None:
    """Upload a file or folder of a cache at a URL; the manifest completes a folder."""
    assert plan.config.teacher.cache is not None
    upload(plan.config.teacher.cache, path, last=array_folder.MANIFEST)


def _measure(plan: CachePlan, header: CacheHeader) -> Measure:
    """Build the jitted (params, batch [B, L]) -> arrays [B, L, …]."""
    config, mesh = plan.config, plan.mesh
    dtype, context = compute_dtype(config, mesh), mesh.shape["context"]
    chunk = loss_chunk(config, mesh)
    spec = StepSpec(
        plan.teacher.config,
        config.method,
        vocab_size=plan.vocab_size,
        numerics=Numerics(dtype, "none", config.train.attention, chunk),
        vocab_group=config.mesh.vocab_group,
    )

    def measure(params: Params, batch: Mapping[str, Array]) -> TopK | Array:
        placement = Placement.of(spec, mesh, batch["tokens"].size)
        hidden, head = forward(spec, placement, plan.teacher.config, params, batch)
        if header.kind == STATES:
            return in_slot_order(hidden, context)
        found = top_k_tokens(
            hidden,
            head,
            header.width,
            mask=batch[MASK],
            vocab_size=plan.vocab_size,
            logit_cap=plan.teacher.config.final_logit_softcap,
            chunk_size=chunk,
            layout=placement.layout,
        )
        return jax.tree.map(lambda x: in_slot_order(x, context), found)

    return jax.jit(measure)


def _entries(
    plan: CachePlan,
    section: SectionPlan,
    rows: np.ndarray,
    params: Params,
    measure: Measure,
) -> Arrays:
    """Entries of the trained tokens of rows, in their order in the rows."""
    parts: list[Arrays] = []
    for first in range(0, len(rows), plan.batch_rows):
        preemption.check()
        batch = packing.build_rows(
            section.examples, section.layout, rows[first : first + plan.batch_rows]
        )
        padding = plan.batch_rows - len(batch[MASK])
        arrays = {
            name: np.pad(batch[name], [(0, padding), (0, 0)])
            for name in ("tokens", MASK, "segment_ids", "positions")
        }
        found = processes.to_host(measure(params, meshes.put_rows(arrays, plan.mesh)))
        named = {"states": found} if section.header.kind == STATES else vars(found)
        parts.append(
            {
                name: named[name][arrays[MASK]].astype(column.dtype)
                for name, column in section.header.columns.items()
            }
        )
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class _Progress:
    """Line on standard output per shard, with speed and remaining time."""

    def __init__(self, section: SectionPlan, shards: int):
        self._section, self._shards = section, shards
        self._start, self._done = time.monotonic(), 0

    def show(self, shard: int, entries: int) -> None:
        self._done += 1
        seconds = time.monotonic() - self._start
        left = seconds / self._done * (self._shards - self._done)
        print(
            f"shard {shard + 1} of {self._section.header.shards}, {entries:,} trained "
            f"tokens, {seconds:.0f} s, {left:.0f} s left",
            flush=True,
        )
