"""Loss problems of the perf scripts: sizes, arrays, timed function.

    problem = LossProblem(2048, vocabulary=32_000, width=512, teacher_width=768)
    step = jax.jit(jax.value_and_grad(problem.loss, GRADIENTS))
    loss, gradients = step(*problem.arrays())

The loss of Target-SFT, from hidden states and heads. The functions take
`(hidden, head, labels, weights, teacher)`: hidden states [N, D], head [V, D], labels
[N] int32, weights [N] f32, and the teacher's pair of hidden states [N, D'] and head
[V', D'].
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Sharding

from targetsft_jax import fused_loss

METHOD = "target_sft"
GRADIENTS = (0, 1)
"""Arguments that are differentiated: hidden states and head."""

Arguments = tuple[Any, Any, Any, Any, tuple[Any, Any]]


@dataclass(frozen=True)
class LossProblem:
    """A loss with its two gradients.

    Attributes:
        tokens: N.
        vocabulary: V.
        width: D of the student.
        teacher_width: D' of the teacher.
        teacher_vocabulary: V' of the teacher; None: V.
        chunk: tokens per chunk.
        dtype: dtype of hidden states and heads.
    """

    tokens: int
    vocabulary: int
    width: int
    teacher_width: int
    teacher_vocabulary: int | None = None
    chunk: int = 512
    dtype: str = "float32"

    @property
    def labels(self) -> int:
        """Size of the shared vocabulary, min(V, V')."""
        return min(self.vocabulary, self._teacher_vocabulary)

    @property
    def flops(self) -> int:
        """Model FLOPs: three products with the student's head, one with the
        teacher's."""
        return 2 * self.tokens * self.labels * (3 * self.width + self.teacher_width)

    def arrays(self, seed: int = 0) -> Arguments:
        """Random arguments: logits of about unit variance, equal weights."""
        keys = jax.random.split(jax.random.key(seed), 5)

        def normal(key: Array, rows: int, columns: int) -> Array:
            return jax.random.normal(key, (rows, columns), self.dtype)

        return (
            normal(keys[0], self.tokens, self.width),
            normal(keys[1], self.vocabulary, self.width) / self.width**0.5,
            jax.random.randint(keys[4], (self.tokens,), 0, self.labels),
            jnp.full(self.tokens, 1 / self.tokens),
            (
                normal(keys[2], self.tokens, self.teacher_width),
                normal(keys[3], self._teacher_vocabulary, self.teacher_width)
                / self.teacher_width**0.5,
            ),
        )

    def shapes(self, sharding: Sharding) -> Arguments:
        """Shapes of the arguments, to compile without arrays."""

        def shape(*dims: int, dtype: str = self.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

        return (
            shape(self.tokens, self.width),
            shape(self.vocabulary, self.width),
            shape(self.tokens, dtype="int32"),
            shape(self.tokens, dtype="float32"),
            (
                shape(self.tokens, self.teacher_width),
                shape(self._teacher_vocabulary, self.teacher_width),
            ),
        )

    def loss(
        self,
        hidden: Array,
        head: Array,
        labels: Array,
        weights: Array,
        teacher: tuple[Array, Array],
    ) -> Array:
        """The fused loss [] f32."""
        return self.loss_and_metrics(hidden, head, labels, weights, teacher)[0]

    def loss_and_metrics(
        self,
        hidden: Array,
        head: Array,
        labels: Array,
        weights: Array,
        teacher: tuple[Array, Array],
    ) -> tuple[Array, dict[str, Array]]:
        """The fused loss [] f32 and its metrics, as a train step has them."""
        return fused_loss(
            METHOD,
            hidden,
            head,
            labels,
            weights=weights,
            teacher=teacher,
            chunk_size=self.chunk,
        )

    @property
    def _teacher_vocabulary(self) -> int:
        return self.teacher_vocabulary or self.vocabulary


# Small enough that a CPU computes it densely in seconds.
CPU = LossProblem(2048, vocabulary=32_000, width=512, teacher_width=768)
# Qwen2.5 1.5B from 7B.
TPU = LossProblem(
    8192,
    vocabulary=151_936,
    width=1536,
    teacher_width=3584,
    chunk=2048,
    dtype="bfloat16",
)
