"""Stored teacher of a run: its cache attached to data sets, and its head."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.checkpoints.teacher_identity import cache_identity
from targetsft_jax.data.pipeline import Dataset
from targetsft_jax.data.teacher_cache import HEAD, PREFIX, TOP_K, open_cache
from targetsft_jax.loss import TopK
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import rules
from targetsft_jax.storage import array_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEACHER = "teacher"
"""Role of the teacher; further ones are "teacher_2", …."""


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher whose distributions are in the batch (see `data.teacher_cache`).

    Attributes:
        kind: `TOP_K` or `STATES`.
        width: numbers per token.
        config: architecture of the teacher; of hidden states, its head is an argument.
    """

    kind: str
    width: int
    config: DecoderConfig | None = None

    def second(
        self, frozen: Mapping[str, Any], batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array] | TopK:
        """Second model of the loss."""
        if self.kind == TOP_K:
            names = ("ids", "log_probs", "log_rest")
            return TopK(*(batch[PREFIX + name] for name in names))
        return batch[f"{PREFIX}states"], decoder.head(frozen[TEACHER])


def with_teacher(
    dataset: Dataset,
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    teacher: StoredModel | None,
    prompt: str | None,
    command: str,
    *,
    int8: bool = False,
    copy_again: Callable[[], object] | None = None,
) -> Dataset:
    """A data set whose batches have the distributions of a stored teacher.

    Args:
        dataset: packed rows.
        folder: the cache of their data section.
        tokenizer: the student's.
        teacher: the teacher that the configuration names, if it is on this machine.
        prompt: the teacher's own prompt.
        command: the command that makes the cache, for errors.
        int8: True if the configuration's teacher runs in int8.
        copy_again: downloads missing files, if the folder is a copy of one in a store.

    Raises:
        ValueError: no cache, or one that is incomplete, damaged, or of other examples,
            another tokenizer or teacher.
    """
    identity = cache_identity(dataset.examples, tokenizer, teacher, prompt, int8=int8)
    cache = open_cache(folder, dataset.examples, identity, command, copy_again)
    cache.check_covers(dataset.examples, dataset.layout)
    return replace(dataset, teacher=cache)


def load_head(folder: Path, mesh: Mesh, dtype: Any) -> dict[str, jax.Array]:
    """Head [V, D] of a teacher of stored hidden states, on the mesh.

    Args:
        folder: the cache of the training data.
        mesh: device mesh.
        dtype: dtype of the head.

    Returns:
        {"head": array}, as `decoder.head` reads it.

    Raises:
        ValueError: it is missing or damaged.
    """
    again = "targetsft teacher_cache, with the same keys, makes it again"
    try:
        found = array_folder.read(folder / HEAD)
    except array_folder.Damaged as error:
        raise ValueError(f"teacher.cache is damaged: {error}. {again}") from None
    if found is None:
        raise ValueError(f"{folder / HEAD}, the teacher's head, is missing. {again}")
    arrays, about = found
    host = arrays["head"].view(ml_dtypes.bfloat16).reshape(about["shape"])
    like = abstract_head(host.shape, mesh, dtype)["head"]
    head = jax.make_array_from_callback(
        host.shape, like.sharding, lambda index: np.asarray(host[index], dtype)
    )
    return {"head": head}


def abstract_head(
    shape: tuple[int, ...], mesh: Mesh, dtype: Any
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of the tree of `load_head`."""
    shapes = {"head": jax.ShapeDtypeStruct(shape, dtype)}
    (sharding,) = rules.shardings({"head": ("vocab", "table")}, shapes, mesh).values()
    return {"head": jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)}
