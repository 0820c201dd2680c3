"""Row statistics of a chunk of logits whose columns may be sharded over devices.

Every device reduces each statistic over its columns in one pass over its tile, relative
to its local maxima. One all-gather exchanges those few numbers per row; then each
device rescales them to the global maxima and sums them. With all columns on one device
the same code runs without the all-gather.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
from jax import Array

from targetsft_jax.targets.rows import (
    Alternative,
    Mix,
    Rows,
    is_plain,
    zero_safe_product,
)

Parts = dict[str, Array]


@dataclass(frozen=True)
class Columns:
    """The columns of the vocabulary that this device's tile holds.

    Attributes:
        vocabulary: number of real tokens; columns past it carry no probability.
        first: vocabulary index of the tile's first column; [] int32, or 0.
        padded: True if any device holds columns past the vocabulary.
        axes: mesh axes that the columns are split over; none if they are unsharded.
    """

    vocabulary: int
    first: Array | int = 0
    padded: bool = False
    axes: tuple[str, ...] = ()

    def gather(self, parts: Sequence[Parts]) -> list[Parts]:
        """Statistics [C] of this device -> [T, C] of T devices, in one collective."""
        if not self.axes:
            return [{key: x[None] for key, x in part.items()} for part in parts]
        stacked = jnp.stack([x for part in parts for x in part.values()])
        statistics = iter(jnp.moveaxis(jax.lax.all_gather(stacked, self.axes), 1, 0))
        return [{key: next(statistics) for key in part} for part in parts]

    def log_total(self, local: Array) -> Array:
        """Log-sums [C] over this device's columns -> over all columns."""
        if not self.axes:
            return local
        (parts,) = self.gather([{"log_sum": local}])
        return jax.nn.logsumexp(parts["log_sum"], axis=0)

    def indices(self, tile: Array) -> Array:
        """Vocabulary index of each column of a tile: [C, v] int32."""
        return jax.lax.broadcasted_iota(jnp.int32, tile.shape, 1) + self.first

    def blanked(self, tile: Array) -> Array:
        """A tile [C, v] with −inf in the columns past the vocabulary."""
        if not self.padded:
            return tile
        return jnp.where(self.indices(tile) < self.vocabulary, tile, -jnp.inf)

    def full_rows(self, tile: Array) -> Array:
        """This device's columns [C, v] -> full rows [C, V]."""
        if self.axes:
            tile = jax.lax.all_gather(tile, self.axes, axis=1, tiled=True)
        return tile[:, : self.vocabulary]

    def local_columns(self, rows: Array, width: int) -> Array:
        """Full rows [C, V] -> this device's columns [C, width]."""
        # Wide enough for the last device's columns.
        reach = -(-self.vocabulary // width) * width + width
        wide = jnp.pad(rows, [(0, 0), (0, reach - rows.shape[1])])
        # Clamped for devices past the vocabulary, which hold padding only.
        first = jnp.minimum(self.first, reach - width)
        return jax.lax.dynamic_slice_in_dim(wide, first, width, axis=1)


class TileRows(Rows):
    """`Rows` of a device's columns [C, v], with statistics reduced over all devices.

    Args:
        logits: this device's columns of a chunk's logits [C, v].
        labels: [C] int, indices in the vocabulary.
        other: the same columns of the second model [C, v], or None.
        columns: indices of these columns in the vocabulary.
        mixes: alternatives of plain numbers whose statistics are part of the one
            all-gather; any other takes a separate one.
    """

    def __init__(
        self,
        logits: Array,
        labels: Array,
        other: Array | None,
        columns: Columns,
        mixes: Sequence[Mix] = (),
    ):
        super().__init__(logits, labels, other)
        self.columns = columns
        self.mixes = tuple(mixes)
        self.logits = columns.blanked(self.logits)
        self.other = None if self.other is None else columns.blanked(self.other)

    @cached_property
    def is_label(self) -> Array:
        with jax.numpy_dtype_promotion("standard"):  # Labels of any width.
            return self.columns.indices(self.logits) == self.labels[:, None]

    @cached_property
    def is_inside(self) -> Array:
        return (self.labels >= 0) & (self.labels < self.columns.vocabulary)

    @cached_property
    def label_shifted(self) -> Array:
        return self._student["label"] - self._maximum

    @cached_property
    def probabilities(self) -> Array:
        # One reciprocal per row: a division per entry costs a TPU more than the exp.
        return self._masses * (1 / (self._others + self._label_mass))[:, None]

    def total(self, values: Array) -> Array:
        local = super().total(values)
        return jax.lax.psum(local, self.columns.axes) if self.columns.axes else local

    def highest(self, values: Array) -> Array:
        local = super().highest(values)
        return jax.lax.pmax(local, self.columns.axes) if self.columns.axes else local

    def top(self, k: int) -> Array:
        local = super().top(k)
        if not self.columns.axes:
            return local
        candidates = jax.lax.all_gather(local, self.columns.axes, axis=1, tiled=True)
        return jax.lax.top_k(candidates, min(k, candidates.shape[1]))[0]

    def alternative(self, mix: Mix) -> Alternative:
        if not is_plain(mix) or mix not in self.mixes:
            return super().alternative(mix)
        _, gathered = self._gathered
        frame = mix[0] * self._drift
        scores = self._scores_of(mix)
        if self.columns.axes:
            scores = scores + (mix[0] * self._local_drift)[:, None]
        merged = _merge(gathered[self.mixes.index(mix)], self._drift, frame)
        return self._finish(scores, merged)

    def softmax_of(self, scores: Array) -> Alternative:
        scores = self.columns.blanked(scores)
        (gathered,) = self.columns.gather([_mix_parts(scores, self.shifted)])
        return self._finish(scores, _merge(gathered, 0.0, 0.0))

    @cached_property
    def _maximum(self) -> Array:
        return self._defined(jnp.max(self._gathered[0]["maximum"], axis=0))

    @cached_property
    def _others(self) -> Array:
        return self._student["others"]

    @cached_property
    def _label_mass(self) -> Array:
        return jnp.exp(self.label_shifted)

    @cached_property
    def _mean_shifted(self) -> Array:
        label = zero_safe_product(self._label_mass, self.label_shifted)
        total = self._others + self._label_mass
        return (self._student["weighted"] + label) / total

    @cached_property
    def _local_maximum(self) -> Array:
        """Maximum of this device's logits [C]; 0 where all are −inf."""
        # Like `_maximum`: one exponential serves both where all columns are here.
        return self._defined(jnp.max(self.logits, axis=-1))

    @cached_property
    def _local_shifted(self) -> Array:
        return self.logits - self._local_maximum[:, None]

    @cached_property
    def _gathered(self) -> tuple[Parts, list[Parts]]:
        student = _student_parts(self.logits, self._local_shifted, self.is_label)
        mixed = [
            _mix_parts(self._scores_of(mix), self._local_shifted) for mix in self.mixes
        ]
        first, *rest = self.columns.gather([student, *mixed])
        return first, rest

    @cached_property
    def _drift(self) -> Array:
        """Local minus global maximum by device [T, C]; 0 where all logits are −inf."""
        local = self._gathered[0]["maximum"]
        return jnp.where(local != -jnp.inf, local - self._maximum, 0)

    @cached_property
    def _local_drift(self) -> Array:
        has_mass = jnp.max(self.logits, axis=-1) != -jnp.inf
        return jnp.where(has_mass, self._local_maximum - self._maximum, 0)

    @cached_property
    def _student(self) -> Parts:
        """Statistics of the student's rows [C], reduced over all devices."""
        parts, _ = self._gathered
        scale = jnp.exp(self._drift)
        others, weighted = parts["others"], parts["weighted"]
        return {
            "others": jnp.sum(scale * others, axis=0),
            "weighted": jnp.sum(scale * (weighted + self._drift * others), axis=0),
            "label": jnp.sum(parts["label"], axis=0),
        }

    def _scores_of(self, mix: Mix) -> Array:
        """A mix's scores [C, v] relative to this device's maximum."""
        return self.columns.blanked(self._mixed(mix, self._local_shifted))

    def _finish(self, scores: Array, merged: Parts) -> Alternative:
        """T from its scores at the global maximum of logits, and merged statistics."""
        total = merged["total"]
        inverse = (1 / total)[:, None]
        return Alternative(
            probabilities=jnp.exp(scores - merged["maximum"][:, None]) * inverse,
            cross_entropy=self.log_total - merged["cross"] / total,
            entropy=jnp.log(total) - merged["self"] / total,
            supported=merged["supported"],
        )

    def _defined(self, maximum: Array) -> Array:
        """A maximum to subtract, NaN for a label outside the vocabulary."""
        return jnp.where(self.is_inside, _finite(maximum), jnp.nan)


def _student_parts(logits: Array, shifted: Array, is_label: Array) -> Parts:
    """Partial row statistics of the student on one device; all [C]."""
    masses = jnp.where(is_label, 0, jnp.exp(shifted))
    return {
        "maximum": jnp.max(logits, axis=-1),
        "others": jnp.sum(masses, axis=-1),
        "weighted": jnp.sum(zero_safe_product(masses, shifted), axis=-1),
        "label": jnp.sum(jnp.where(is_label, logits, 0), axis=-1),
    }


def _mix_parts(scores: Array, shifted: Array) -> Parts:
    """Partial row statistics of T = softmax(scores) on one device; all [C]."""
    maximum = jnp.max(scores, axis=-1)
    relative = scores - _finite(maximum)[:, None]
    masses = jnp.exp(relative)
    return {
        "maximum": maximum,
        "total": jnp.sum(masses, axis=-1),
        "cross": jnp.sum(zero_safe_product(masses, shifted), axis=-1),
        "self": jnp.sum(zero_safe_product(masses, relative), axis=-1),
    }


def _merge(parts: Parts, drift: Array | float, frame: Array | float) -> Parts:
    """Partial statistics [T, C] of a mix on all devices -> its statistics [C].

    Args:
        parts: from `_mix_parts` of each device.
        drift: local minus global maximum of the logits, by device [T, C].
        frame: the same difference for the scores.
    """
    maxima = parts["maximum"] + frame
    highest = jnp.max(maxima, axis=0)
    supported = highest != -jnp.inf
    maximum = _finite(highest)
    has_mass = parts["maximum"] != -jnp.inf
    down = jnp.where(has_mass, maxima - maximum, 0)
    scale = jnp.where(has_mass, jnp.exp(down), 0)
    total = jnp.sum(scale * parts["total"], axis=0)
    return {
        "maximum": maximum,
        "supported": supported,
        "total": jnp.where(supported, total, 1),
        "cross": jnp.sum(scale * (parts["cross"] + drift * parts["total"]), axis=0),
        "self": jnp.sum(scale * (parts["self"] + down * parts["total"]), axis=0),
    }


def _finite(maximum: Array) -> Array:
    """A maximum to subtract: −inf, where all values are −inf, becomes 0."""
    return jnp.where(maximum == -jnp.inf, 0, maximum)
