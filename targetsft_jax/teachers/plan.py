"""Plan of a teacher cache: models, rows and shards, checked before any weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import StoredModel, shared_tokenizer
from targetsft_jax.checkpoints.teacher_identity import cache_identity
from targetsft_jax.command import UsageError
from targetsft_jax.config.data_checks import check_positions
from targetsft_jax.config.roles import INT8, teacher_is_student
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data import packing
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.examples import MASK, Examples
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.prompted import NONE, aligned, prompted_examples
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_cache import (
    TOP_K,
    TRAIN,
    VALIDATION,
    CacheHeader,
    check_identity,
)
from targetsft_jax.storage.shared_folder import folder_to_write
from targetsft_jax.training.session import role_model
from targetsft_jax.training.step_spec import (
    compute_dtype,
    is_int8,
    make_mesh,
    param_dtype,
)

_ROW_UNIT = 128
"""Lengths of rows are multiples of it, as attention kernels need."""

_SHARD_BYTES = 64 * 2**20
"""Size at which a shard ends: a stop loses the work on one shard."""


@dataclass(frozen=True)
class SectionPlan:
    """A data section's part of the cache.

    Attributes:
        folder: folder of this section.
        header: its contents.
        examples: the tokenized examples, as the teacher reads them.
        layout: their rows.
        shard_rows: rows per shard, a multiple of the rows of a batch.
        numbers: [N] index in the run of each example; `NONE`: it has none.
    """

    folder: Path
    header: CacheHeader
    examples: Examples
    layout: RowLayout
    shard_rows: int
    numbers: np.ndarray

    def rows(self, shard: int) -> np.ndarray:
        """Indices of the rows of a shard."""
        first = shard * self.shard_rows
        return np.arange(first, min(first + self.shard_rows, self.layout.rows))

    def segments(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Examples [S] of the run in rows, and the entries [S] of each."""
        mask = self.examples.columns[MASK]
        parts = [self.layout.segments(int(row)) for row in rows]
        numbers = np.concatenate([self.layout.examples[part] for part in parts])
        lengths = np.concatenate([self.layout.lengths[part] for part in parts])
        starts = self.examples.starts[numbers]
        counts = [
            np.count_nonzero(mask[start + 1 : start + length])
            for start, length in zip(starts.tolist(), lengths.tolist())
        ]
        return self.numbers[numbers], np.array(counts, np.int64)


@dataclass(frozen=True)
class CachePlan:
    """A teacher cache to make.

    Attributes:
        config: configuration of the run; mesh: its devices.
        teacher: the teacher; dtype: of its parameters, int8: but for its matrices;
            vocab_size: of the tokenizer.
        sections: its data sections.
        batch_rows: rows per forward pass.
    """

    config: Config
    mesh: Mesh
    teacher: StoredModel
    dtype: Any
    int8: bool
    vocab_size: int
    sections: tuple[SectionPlan, ...]
    batch_rows: int


def plan_cache(config: Config, kind: str, k: int) -> CachePlan:
    """Open models and data, and plan the shards.

    Args:
        config: configuration of the run that the cache is for.
        kind: what is stored, `TOP_K` or `STATES`.
        k: tokens per entry of `TOP_K`.

    Raises:
        ConfigError, UsageError, ValueError, OSError: a key, model, file or the folder
            cannot be used.
    """
    if config.teacher.cache is None:
        raise ConfigError(
            "teacher.cache is null; expected the folder to write, which the run reads "
            "then: --teacher.cache FOLDER"
        )
    has_teacher = config.teacher.path or config.teacher.build
    if not (has_teacher or teacher_is_student(config)):
        raise ConfigError("teacher.path is null; expected the teacher to run")
    mesh = make_mesh(config)
    student = role_model(config, "student", mesh)
    assert student is not None
    teacher = role_model(config, "teacher", mesh) or student
    check_positions(config, {"teacher": teacher.config})
    tokenizer = shared_tokenizer({"student": student, "teacher": teacher})
    if kind == TOP_K and not 1 <= k <= len(tokenizer):
        raise UsageError(f"--k is {k}; expected 1 to {len(tokenizer):,} tokens")
    width = k if kind == TOP_K else teacher.config.hidden_size
    rows = config.train.batch_size // config.train.accumulation_steps
    dtype, int8 = param_dtype("teacher", config, mesh), is_int8("teacher", config)
    about = {
        "teacher": str(teacher.source),
        "dtype": INT8 if int8 else dtype.name,
        "computed in": compute_dtype(config, mesh).name,
    }
    tokenizer = with_template(tokenizer, config.data.chat_template)
    root = folder_to_write(config.teacher.cache, "teacher.cache")
    _check_own(root)
    sections = []
    for name, data in data_sections(config):
        held_out = config.validation.examples if name == TRAIN else 0
        prepared = prepare(data, tokenizer, config.cache_dir, held_out=held_out)
        examples, prompt = prepared.train.examples, config.teacher.prompt
        identity = cache_identity(examples, tokenizer, teacher, prompt, int8=int8)
        header = CacheHeader(kind, width, 0, identity, about)
        numbers = np.arange(len(examples))
        if prompt is None:
            layout = _layout(examples, data)
        else:
            own = prompted_examples(data, tokenizer, prompt)
            chosen = aligned(own, examples)
            numbers = np.full(len(own), NONE)
            numbers[chosen] = np.arange(len(examples))
            examples = own
            layout = _long_rows(own, chosen, teacher.config.context_length)
        section = SectionPlan(root / name, header, examples, layout, 0, numbers)
        sections.append(_with_shards(section, rows))
    return CachePlan(
        config,
        mesh,
        teacher,
        dtype,
        int8,
        len(tokenizer),
        tuple(sections),
        rows,
    )


def _check_own(folder: Path) -> None:
    """Check that a folder is empty, absent, or that of a teacher cache.

    Raises:
        ConfigError: a file, or a folder with other contents.
    """
    found = f"teacher.cache is {str(folder)!r}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{found}, a file; expected a folder")
    own = (TRAIN, VALIDATION)
    names = sorted(path.name for path in folder.glob("[!.]*") if path.name not in own)
    if names:
        raise ConfigError(
            f"{found}, a folder with {names[0]}, which is not of a teacher cache; "
            "expected a folder of its own"
        )


def data_sections(config: Config) -> Iterator[tuple[str, DataConfig]]:
    """Data sections that a run reads a teacher on, by the names of their folders."""
    yield TRAIN, config.data
    if config.validation.data is not None:
        yield VALIDATION, config.validation.data


def _layout(examples: Examples, data: DataConfig) -> RowLayout:
    """Rows of all usable examples, whatever part of them a run trains on."""
    numbers, lengths = packing.fit_to_rows(
        examples, data.max_length, data.overlong, DataReport()
    )
    return packing.pack(numbers, lengths, data.max_length)


def _long_rows(examples: Examples, numbers: np.ndarray, positions: int) -> RowLayout:
    """Rows of examples under the teacher's own prompt, as long as the longest.

    Args:
        examples: the examples; numbers: [K] those that are packed.
        positions: of the teacher.

    Raises:
        ValueError: an example has more tokens than the teacher has positions.
    """
    lengths = examples.lengths[numbers]
    longest = int(numbers[np.argmax(lengths)])
    length = int(examples.lengths[longest])
    if length > positions:
        raise ValueError(
            f"{examples.origins[longest]} has {length:,} tokens under teacher.prompt, "
            f"and the teacher has {positions:,} positions; shorten the prompt or leave "
            "out such rows by data.where"
        )
    row_length = min(positions, -(-length // _ROW_UNIT) * _ROW_UNIT)
    return packing.pack(numbers, lengths, row_length)


def _with_shards(section: SectionPlan, batch_rows: int) -> SectionPlan:
    """A section with its shards: those of its folder, if the cache has been begun.

    Raises:
        ValueError: the folder has another cache.
    """
    folder, header, layout = section.folder, section.header, section.layout
    begun = CacheHeader.read(folder)
    shard_rows = int((begun.about if begun else {}).get("rows of a shard", 0))
    if not shard_rows:
        entry = header.entry_bytes * section.examples.columns[MASK].mean()
        per_row = max(1, int(entry * layout.row_length))
        batches = max(1, _SHARD_BYTES // (per_row * batch_rows))
        shard_rows = batch_rows * batches
    about = {**header.about, "rows of a shard": shard_rows}
    shards = -(-layout.rows // shard_rows)
    header = CacheHeader(header.kind, header.width, shards, header.identity, about)
    if begun:
        check_identity(folder, begun, header.identity)
        _check_same(folder, vars(begun), vars(header))
    return replace(section, header=header, shard_rows=shard_rows)


def _check_same(
    folder: Path, begun: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    for name, value in header.items():
        if name != "identity" and begun[name] != value:
            raise ValueError(
                f"{folder} has a teacher cache with {name} {begun[name]!r}, and this "
                f"command asks for {value!r}; choose another teacher.cache"
            )
