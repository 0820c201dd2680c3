"""The fused loss: from hidden states and a head to a loss, with no [tokens, V] array.

Tokens go through the head in chunks of C. A chunk's logits live only long enough for
its statistics, its value and its closed-form logit gradient g; the two products of g
(with the head for ∂hidden, with hidden for ∂head) are taken at once, so the backward
pass only scales what the forward has made. That is three student matmuls and one of
the second model, the least there is without exploiting sparsity of g.

The code below knows no method by name. A loss that is no method (any function of
logits and labels) takes part through autodiff of one chunk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.api import SECOND_MODELS, resolve, second_model
from targetsft_jax.targets.methods import Method
from targetsft_jax.targets.rows import Rows, compute_dtype, times

Metrics = dict[str, Array]
TokenLoss = Callable[..., Array]
Model = tuple[Array, Array]

DEFAULT_CHUNK = 1024


def fused_loss(
    name: str | TokenLoss,
    hidden: Array,
    head: Array,
    labels: Array,
    *,
    weights: Array,
    teacher: Model | None = None,
    reference: Model | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    vocab_size: int | None = None,
    sharding: "Sharding | None" = None,
    **inputs: Any,
) -> tuple[Array, Metrics]:
    """Σ weights · value over all tokens, differentiable in hidden and head.

    Args:
        name: a method, or a function (logits [C, V], labels [C], **inputs) -> loss [C]
            that jax can differentiate. Its inputs with the tokens' shape arrive in
            chunks, second models as `teacher_logits` and `reference_logits`, and all
            else as given.
        hidden: student hidden states [..., D] in the compute dtype.
        head: student output embedding [V, D]; cast to hidden's dtype for the products,
            its gradient is summed in float32 and returned in its own dtype.
        labels: observed tokens [...] int. Where the weight is 0 any value may stand.
        weights: [...] float; mask and normaliser in one. Constant in θ.
        teacher: (hidden [..., D_t], head [V_t, D_t]) of the teacher; constant in θ.
        reference: the same of the frozen reference.
        chunk_size: tokens per chunk; logits of C·V float32 exist at a time, twice
            with a second model.
        vocab_size: real vocabulary; rows of either head past it carry no probability.
            Default: the smaller number of rows.
        sharding: how tokens are spread over devices (see `sharded_fused_loss`).
        **inputs: the method's per-token inputs [...] and hyper-parameters.

    Returns:
        The loss [] and metrics, each Σ weights · statistic [] (means, if the weights
        sum to one), detached: `nll`, `gamma`, `strength`, `negative_mass`, `entropy`,
        `label_prob`, `accuracy`, and `kl_teacher` or `kl_reference` where a second
        model takes part. A loss given as a function has no gamma, strength or
        negative mass.

    Raises:
        ValueError: unknown or missing inputs, or shapes that do not fit.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    spec, second, columns = _plan(name, teacher, reference, inputs, labels.shape)
    vocabulary = _vocabulary(head, second, vocab_size)
    _check(hidden, head, labels, weights, second, columns)
    batch = _Batch(labels, weights, columns, second)
    evaluate = _evaluator(spec, vocabulary, chunk_size, sharding)

    @jax.custom_vjp
    def loss(hidden: Array, head: Array, batch: _Batch) -> tuple[Array, Metrics]:
        return evaluate(hidden, head, batch, gradients=False)[:2]

    def forward(
        hidden: Array, head: Array, batch: _Batch
    ) -> tuple[tuple[Array, Metrics], tuple[Array, Array]]:
        value, metrics, *pulls = evaluate(hidden, head, batch, gradients=True)
        return (value, metrics), (pulls[0], pulls[1])

    def backward(
        saved: tuple[Array, Array], cotangent: tuple[Array, Metrics]
    ) -> tuple[Array, Array, None]:
        scale = cotangent[0]
        d_hidden, d_head = saved
        return (
            (scale * d_hidden).astype(d_hidden.dtype),
            (scale * d_head).astype(d_head.dtype),
            None,
        )

    loss.defvjp(forward, backward)
    value, metrics = loss(hidden, head, jax.tree.map(stop_gradient, batch))
    return value, jax.tree.map(stop_gradient, metrics)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Batch:
    """What is constant in θ; all leading shapes [...] (or [N] once flattened)."""

    labels: Array
    weights: Array
    columns: dict[str, Array]
    second: dict[str, Model]


@dataclass(frozen=True)
class Sharding:
    """How to run the per-device part of the loss and sum its results.

    Attributes:
        wrap: (function, with gradients?) -> the function over all devices.
        total: sums an array over the devices that hold tokens.
    """

    wrap: Callable[..., Callable[..., Any]]
    total: Callable[[Array], Array]


@dataclass(frozen=True)
class _Spec:
    """A loss with its hyper-parameters: a method, or a user's function."""

    method: Method | None
    function: TokenLoss | None
    hyper: Mapping[str, Any]


def _plan(
    name: str | TokenLoss,
    teacher: Model | None,
    reference: Model | None,
    inputs: Mapping[str, Any],
    tokens: tuple[int, ...],
) -> tuple[_Spec, dict[str, Model], dict[str, Array]]:
    """Which loss, which second models it reads, and its per-token columns."""
    for dense in SECOND_MODELS:
        if dense in inputs:
            model = dense.removesuffix("_logits")
            raise ValueError(f"give {model}=(hidden, head) in place of {dense}")
    models = {"teacher_logits": teacher, "reference_logits": reference}
    present = {key: model for key, model in models.items() if model is not None}
    if callable(name):
        columns, hyper = _split_columns(inputs, tokens)
        return _Spec(None, name, hyper), present, columns
    method, arrays, hyper = resolve(name, {**inputs, **present})
    key = second_model(arrays)
    second = {} if key is None else {key: present[key]}
    columns = {k: jnp.asarray(v) for k, v in arrays.items() if k != key}
    # A hyper-parameter may be given per token, such as target_sft's gamma.
    per_token, hyper = _split_columns(hyper, tokens)
    return _Spec(method, None, hyper), second, {**columns, **per_token}


def _split_columns(
    inputs: Mapping[str, Any], tokens: tuple[int, ...]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays [*tokens, ...], which go through the chunks, and all else."""
    columns = {
        key: jnp.asarray(value)
        for key, value in inputs.items()
        if isinstance(value, jax.Array | np.ndarray)
        and value.shape[: len(tokens)] == tokens
    }
    return columns, {k: v for k, v in inputs.items() if k not in columns}


def _evaluator(
    spec: _Spec, vocabulary: int, chunk_size: int, sharding: Sharding | None
) -> Callable[..., Any]:
    """(hidden, head, batch, gradients) -> loss, metrics[, ∂hidden, ∂head]."""

    def local(
        hidden: Array, head: Array, batch: _Batch, *, gradients: bool
    ) -> tuple[Any, ...]:
        total = sharding.total if sharding else lambda x: x
        results = _scan_chunks(
            spec, vocabulary, chunk_size, hidden, head, batch, gradients
        )
        loss, metrics, *pulls = results
        summed = (total(loss), jax.tree.map(total, metrics))
        if not gradients:
            return summed
        # The one reduction of ∂head, after the loop, in the accumulator's float32.
        return (*summed, pulls[0], total(pulls[1]).astype(head.dtype))

    def evaluate(
        hidden: Array, head: Array, batch: _Batch, *, gradients: bool
    ) -> tuple[Any, ...]:
        def run(*args: Any) -> tuple[Any, ...]:
            return local(*args, gradients=gradients)

        run_all = sharding.wrap(run, gradients) if sharding else run
        return run_all(hidden, head, batch)

    return evaluate


def _scan_chunks(
    spec: _Spec,
    vocabulary: int,
    chunk_size: int,
    hidden: Array,
    head: Array,
    batch: _Batch,
    gradients: bool,
) -> tuple[Any, ...]:
    """The loop over chunks on one device."""
    tokens = batch.labels.size
    size = max(1, min(chunk_size, tokens))
    chunks = -(-tokens // size)

    def split(x: Array, lead: int) -> Array:
        """[..., *rest] -> [chunks, C, *rest], zero-padded: padding has weight 0."""
        flat = x.reshape(tokens, *x.shape[lead:])
        padding = [(0, chunks * size - tokens)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, padding).reshape(chunks, size, *flat.shape[1:])

    lead = batch.labels.ndim
    weights_of_heads = {
        key: model[1][:vocabulary].astype(model[0].dtype)
        for key, model in batch.second.items()
    }
    w = head[:vocabulary].astype(hidden.dtype)
    xs = (
        split(hidden, lead),
        split(batch.labels, lead),
        split(batch.weights, lead),
        {key: split(column, lead) for key, column in batch.columns.items()},
        {key: split(model[0], lead) for key, model in batch.second.items()},
    )
    wide = jnp.promote_types(hidden.dtype, jnp.float32)

    def step(d_w: Array | None, chunk: Any) -> tuple[Array | None, Any]:
        x, labels, weights, columns, others = chunk
        logits = _matmul("cd,vd->cv", x, w)
        second = {
            key: _matmul("cd,vd->cv", other, weights_of_heads[key])
            for key, other in others.items()
        }
        value, metrics, g = _chunk(spec, logits, labels, weights, columns, second)
        if d_w is None:
            return None, (value, metrics)
        g = g.astype(x.dtype)
        d_x = _matmul("cv,vd->cd", g, w).astype(x.dtype)
        d_w = d_w + _matmul("cv,cd->vd", g, x)
        return d_w, (value, metrics, d_x)

    start = jnp.zeros(w.shape, wide) if gradients else None
    d_w, (values, metrics, *d_x) = jax.lax.scan(step, start, xs)
    loss = jnp.sum(values)
    metrics = jax.tree.map(jnp.sum, metrics)
    if d_w is None:
        return loss, metrics
    flat = d_x[0].reshape(chunks * size, hidden.shape[-1])[:tokens]
    d_head = jnp.pad(d_w, [(0, head.shape[0] - vocabulary), (0, 0)])
    return loss, metrics, flat.reshape(hidden.shape), d_head


def _chunk(
    spec: _Spec,
    logits: Array,
    labels: Array,
    weights: Array,
    columns: Mapping[str, Array],
    second: Mapping[str, Array],
) -> tuple[Array, Metrics, Array]:
    """Weighted value [], metrics and weighted logit gradient [C, V] of one chunk."""
    weights = weights.astype(compute_dtype(logits))
    # Where the weight is 0 any label may stand, and nothing may become NaN.
    labels = jnp.where(weights == 0, 0, labels)
    key = next(iter(second), None)
    rows = Rows(logits, labels, None if key is None else second[key])
    metrics: Metrics = {}
    if spec.method is None:
        assert spec.function is not None
        values, g = _differentiate(
            spec.function, logits, labels, weights, {**columns, **second, **spec.hyper}
        )
    else:
        arguments = {**columns, **spec.hyper}
        q = spec.method.build(rows, **arguments).bind(rows)
        values = spec.method.published(q, **arguments)
        g = q.logit_gradient()
        signed = jnp.zeros_like(weights)
        if not spec.method.proper:
            signed = jnp.sum(jnp.maximum(0, g - rows.probabilities), axis=-1)
        metrics = {
            "gamma": q.gamma,
            "strength": q.strength,
            "negative_mass": signed,
        }
        g = times(weights[:, None], g)
    metrics |= {
        "nll": rows.nll,
        "entropy": rows.entropy,
        "label_prob": rows.prob,
        "accuracy": rows.correct.astype(weights.dtype),
    }
    if key is not None:
        other = rows.alternative((0, 1))
        metrics["kl_" + key.removesuffix("_logits")] = (
            other.cross_entropy - other.entropy
        )
    summed = {name: jnp.sum(times(weights, x)) for name, x in metrics.items()}
    return jnp.sum(times(weights, values)), summed, g


def _differentiate(
    function: TokenLoss,
    logits: Array,
    labels: Array,
    weights: Array,
    inputs: Mapping[str, Any],
) -> tuple[Array, Array]:
    """Values [C] of a user's loss and its weighted logit gradient, by autodiff."""
    values, pull = jax.vjp(lambda z: function(z, labels, **inputs), logits)
    if values.shape != labels.shape:
        raise ValueError(
            f"the loss function returned {values.shape} for labels {labels.shape}; "
            "expected one loss per token"
        )
    # A cotangent of 0 does not stop a NaN: padding may have no derivative.
    (gradient,) = pull(weights.astype(values.dtype))
    return values, jnp.where(weights[:, None] == 0, 0, gradient)


def _matmul(equation: str, left: Array, right: Array) -> Array:
    wide = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.einsum(equation, left, right, preferred_element_type=wide)


def _vocabulary(head: Array, second: Mapping[str, Model], real: int | None) -> int:
    """The number of rows that all heads share and that are real tokens."""
    shared = min([head.shape[0], *(model[1].shape[0] for model in second.values())])
    if real is None:
        return shared
    if not 0 < real <= shared:
        raise ValueError(
            f"vocab_size is {real}; the smallest head has {shared} rows, so expected "
            f"1 to {shared}"
        )
    return real


def _check(
    hidden: Array,
    head: Array,
    labels: Array,
    weights: Array,
    second: Mapping[str, Model],
    columns: Mapping[str, Array],
) -> None:
    if head.ndim != 2 or hidden.shape[-1] != head.shape[-1]:
        raise ValueError(
            f"hidden {hidden.shape} and head {head.shape} do not fit: expected "
            "[..., D] and [V, D]"
        )
    shapes = {"labels": labels.shape, "weights": weights.shape}
    shapes |= {key: model[0].shape[:-1] for key, model in second.items()}
    shapes |= {key: x.shape[: labels.ndim] for key, x in columns.items()}
    wrong = {key: shape for key, shape in shapes.items() if shape != hidden.shape[:-1]}
    if wrong:
        raise ValueError(
            f"hidden {hidden.shape} has tokens {hidden.shape[:-1]}, but "
            + ", ".join(f"{key} has {shape}" for key, shape in wrong.items())
        )
