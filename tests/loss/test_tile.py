"""Row statistics of columns sharded over eight devices, against full rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from targetsft_jax.loss.tile import Columns, TileRows
from targetsft_jax.targets.rows import Rows

V, WIDTH = 29, 4  # eight devices: the last has one real column and three of padding
MIXES = ((0, 1), (0.5, 0.5), (1 / 0.7, 0), (0, 0))
RNG = np.random.default_rng(0)


def _rows():
    """Ordinary rows, rows of distant logits, and one with −inf on a device."""
    logits, other = RNG.normal(size=(2, 6, V)) * 3
    logits[1] *= 50
    logits[2, 8:12] = -np.inf
    other[2, 20:] = -np.inf
    logits[3] += 3e4
    return logits, np.array([0, 28, 9, 12, 3, 27]), other


def _statistics(rows):
    yield "maximum", rows._maximum
    yield "prob", rows.prob
    yield "complement", rows.complement
    yield "log_prob", rows.log_prob
    yield "entropy", rows.entropy
    yield "top", rows.top(5)
    yield "share", rows.top_share(5)
    yield "correct", rows.correct
    for mix in MIXES:
        alternative = rows.alternative(mix)
        yield f"cross-entropy of {mix}", alternative.cross_entropy
        yield f"entropy of {mix}", alternative.entropy
        yield f"supported by {mix}", alternative.supported


def _entries(rows):
    yield "probabilities", rows.probabilities
    yield "minus label", rows.minus_label
    for mix in MIXES:
        yield f"T of {mix}", rows.alternative(mix).probabilities


# All mixes in the one all-gather, some of them, or none.
@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "gathered", [MIXES, MIXES[:2], ()], ids=["all", "some", "none"]
)
def test_split_columns_have_the_statistics_of_full_rows(gathered):
    mesh = jax.make_mesh((8,), ("tensor",), axis_types=(AxisType.Auto,))
    logits, labels, other = _rows()

    def local(logits, other):
        first = jax.lax.axis_index("tensor") * WIDTH
        columns = Columns(V, first, padded=True, axes=("tensor",))
        rows = TileRows(logits, jnp.asarray(labels), other, columns, gathered)
        return dict(_statistics(rows)), dict(_entries(rows))

    with jax.enable_x64(True):
        # Values of padding columns have no effect.
        wide = [
            np.pad(x, ((0, 0), (0, 3)), constant_values=7.0) for x in (logits, other)
        ]
        statistics, entries = jax.jit(
            jax.shard_map(
                local,
                mesh=mesh,
                in_specs=(P(None, "tensor"), P(None, "tensor")),
                out_specs=(P(), P(None, "tensor")),
                check_vma=False,
            )
        )(*wide)
        full = Rows(*map(jnp.asarray, (logits, labels, other)))
        for name, value in _statistics(full):
            np.testing.assert_allclose(
                statistics[name], value, rtol=1e-12, atol=1e-14, err_msg=name
            )
        for name, value in _entries(full):
            np.testing.assert_allclose(
                entries[name][:, :V], value, rtol=1e-12, atol=1e-15, err_msg=name
            )
            assert not entries[name][:, V:].any(), name


def test_full_rows_and_back():
    mesh = jax.make_mesh((8,), ("tensor",), axis_types=(AxisType.Auto,))
    tile = np.arange(2 * 32, dtype="f4").reshape(2, 32)

    def local(tile):
        first = jax.lax.axis_index("tensor") * WIDTH
        columns = Columns(V, first, padded=True, axes=("tensor",))
        rows = columns.full_rows(tile)
        return rows, columns.local_columns(rows, WIDTH)

    rows, back = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=P(None, "tensor"),
        out_specs=(P(), P(None, "tensor")),
        check_vma=False,
    )(tile)
    np.testing.assert_array_equal(rows, tile[:, :V])
    np.testing.assert_array_equal(back, np.where(np.arange(32) < V, tile, 0))
