"""Measure the rows of a page, one after another, and join their arrays."""

from collections.abc import Sequence

import numpy as np

from targetsft_jax.config.schema import PolicyConfig
from targetsft_jax.data.chat import Example
from targetsft_jax.inspection.measure import Arrays, Meter
from targetsft_jax.inspection.method_inputs import BEFORE, STUDENT, PageMethod
from targetsft_jax.inspection.models import Models
from targetsft_jax.inspection.page_data import PADDING
from targetsft_jax.inspection.rounding import rounded, rounded_logs
from targetsft_jax.inspection.trajectories import label_weight, needs_trajectory

MANTISSA_BITS = 13
"""Bits of stored numbers: a relative error of at most 2^−14, 6 · 10^−5."""
LOG_STEP, LOG_BITS = 2.0**-11, 12
"""Step of stored logarithms, and mantissa of small ones: probabilities have a relative
error of at most 2.4 · 10^−4, and so have their complements."""


def measure_rows(
    examples: Sequence[Example],
    models: Models,
    methods: Sequence[PageMethod],
    eta_stops: Sequence[float],
    *,
    vocab_size: int,
    policy: PolicyConfig,
    teacher: Sequence[Example] | None = None,
) -> Arrays:
    """Arrays of all trained tokens, in order; candidates are token ids.

    Args:
        examples: the rows.
        models: loaded models.
        methods: methods of the page.
        eta_stops: η at which the normaliser of the guided prior is stored.
        vocab_size: V, tokens of the tokenizer.
        policy: aggregation of the trajectory weights of iw-SFT.
        teacher: the rows as a teacher with a prompt of its own reads them.
    """
    meter = Meter(methods, eta_stops)
    theirs: Sequence[Example | None] = teacher or [None] * len(examples)
    rows = [
        _measure_row(example, models, meter, vocab_size, other)
        for example, other in zip(examples, theirs)
    ]
    arrays = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    _check_finite(arrays, models.roles)
    counts = [len(row["candidate"]) for row in rows]
    segments = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    for method in filter(needs_trajectory, methods):
        arrays[f"a_{method.name}"] = label_weight(method, arrays, segments, policy)
    return compact(arrays)


def trained_tokens(example: Example) -> np.ndarray:
    """Mask [n] bool of the trained tokens; the first one has no context."""
    mask = example.loss_mask.copy()
    mask[:1] = False
    return mask


def _measure_row(
    example: Example,
    models: Models,
    meter: Meter,
    vocab_size: int,
    teacher: Example | None,
) -> Arrays:
    # The logits at a position are those of the next token.
    positions = np.flatnonzero(trained_tokens(example)) - 1
    reads = None
    if teacher is not None:
        at = np.zeros(len(example.tokens), np.int64)
        at[positions] = np.flatnonzero(trained_tokens(teacher)) - 1
        reads = teacher.tokens, at
    blocks: list[Arrays] = []
    start = 0
    for logits in models.chunks(example.tokens, vocab_size, reads):
        size = len(logits[STUDENT])
        inside = positions[(positions >= start) & (positions < start + size)]
        columns = {name: x[inside + 1] for name, x in example.columns.items()}
        labels = example.tokens[inside + 1]
        blocks += meter.blocks(logits, inside - start, labels, columns)
        start += size
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}


def _check_finite(arrays: Arrays, roles: Sequence[str]) -> None:
    """Refuse a model whose logits are not numbers, of which a page has nothing."""
    for role in roles:
        logprob = arrays[f"logprob_{role}"][:, 0]
        count = int((~np.isfinite(logprob)).sum())
        if count:
            model = "earlier model" if role == BEFORE else role
            raise ValueError(
                f"the logits of the {model} are not numbers at {count:,} of "
                f"{len(logprob):,} trained tokens; check its weights, or set "
                "train.dtype to float32"
            )


def compact(arrays: Arrays) -> Arrays:
    """Candidates no wider than the widest token, and rounded numbers."""
    width = int((arrays["candidate"] != PADDING).sum(axis=-1).max())
    compact = {}
    for name, x in arrays.items():
        x = x[:, :width] if name == "candidate" or name.startswith(_WIDE) else x
        if name.startswith(_LOGARITHMS):
            x = rounded_logs(x, LOG_STEP, LOG_BITS)
        elif x.dtype.kind == "f":
            x = rounded(x, MANTISSA_BITS)
        compact[name] = x
    return compact


_LOGARITHMS = ("logprob_", "logt_", "logz_")
_WIDE = ("logprob_", "logt_")
"""Prefixes of arrays with one number per candidate."""
