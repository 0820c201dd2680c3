"""Teachers of a step beside the student's rows: stored ones, and rows of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.data.teacher_cache import PREFIX, TOP_K
from targetsft_jax.data.teacher_rows import INDEX, ROWS
from targetsft_jax.loss import TopK
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.training.state import Params

TEACHER = "teacher"
"""Role of the teacher; further ones are "teacher_2", …."""

Batch = Mapping[str, Array]
States = tuple[Array, Array]
"""Hidden states [B, L, D] and the head [V, D] of a model."""


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

    def second(self, frozen: Mapping[str, Params], batch: Batch) -> States | TopK:
        """Second model of the loss."""
        if self.kind == TOP_K:
            names = ("ids", "log_probs", "log_rest")
            return TopK(*(batch[PREFIX + name] for name in names))
        return batch[f"{PREFIX}states"], decoder.head(frozen[TEACHER])


def teacher_batch(batch: Batch) -> dict[str, Array]:
    """Arrays [B, L_T] that a teacher with rows of its own reads."""
    return {name: batch[theirs] for name, theirs in ROWS.items()}


def at_labels(hidden: Array, batch: Batch, mesh: Mesh) -> Array:
    """Hidden states of a teacher's rows at the labels of the student's.

    A row of both is on the same device, so that nothing is communicated.

    Args:
        hidden: [B, L_T, D].
        batch: with `teacher_index` [B, L].
        mesh: (data, fsdp, context, tensor) mesh, context 1.

    Returns:
        [B, L, D]; where no label is trained, that of the row's first token.
    """
    states = jnp.take_along_axis(hidden, batch[INDEX][..., None], axis=1)
    return jax.lax.with_sharding_constraint(states, meshes.tokens_over(mesh))
