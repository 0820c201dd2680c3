"""Fused loss: hidden states and a head in, a loss out, without a [tokens, V] array.

The forward pass computes the gradient together with the value, chunk by chunk (see
`chunks`), and the backward pass only scales it. No method is special-cased. A loss that
is not a method (any function of logits and labels) is differentiated chunk by chunk.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.loss.chunks import Batch, Spec, TokenLoss, chunked_loss
from targetsft_jax.loss.first_order import first_order
from targetsft_jax.loss.second import Mixture, Source, is_soft_cap, recipe_of
from targetsft_jax.loss.tile import Columns
from targetsft_jax.targets.api import resolve, second_model, token_columns
from targetsft_jax.targets.arguments import (
    counted,
    label_array,
    real_array,
    unwrapped,
    weight_array,
    whole_number,
)
from targetsft_jax.targets.inputs import SECOND_MODELS
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.top_k import TopK

Metrics = dict[str, Array]
Sources = dict[str, tuple[Source, ...]]

DEFAULT_CHUNK = 2048

_DENSE = "differentiate `objective` of the logits for second derivatives"


def fused_loss(
    method: str | Method | TokenLoss,
    hidden: Array,
    head: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    teacher: Source | Mixture | None = None,
    reference: Source | Mixture | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    vocab_size: int | None = None,
    logit_caps: Mapping[str, float | None] | None = None,
    layout: "Layout | None" = None,
    head_gradient: bool = True,
    histograms: bool = False,
    **inputs: Any,
) -> tuple[Array, Metrics]:
    """Σ weights · value over all tokens, differentiable in hidden and head.

    Args:
        method: a name in `METHODS`, a `Method`, or a function (logits [C, V],
            labels [C], **inputs) -> loss [C] that jax can differentiate. Its inputs
            with the tokens' shape arrive in chunks, second models as `teacher_logits`
            and `reference_logits`, and all others unchanged.
        hidden: student hidden states [..., D] in the compute dtype.
        head: student output embedding [V, D]; cast to hidden's dtype for the products.
            Its gradient is summed in float32 and returned in the head's dtype.
        labels: observed tokens [...] int; any value where the weight is 0. Elsewhere a
            traced label outside the vocabulary makes loss and gradients NaN, and is
            counted in the metric `labels_outside`.
        weights: [...]; mask and normaliser in one, finite; a negative weight subtracts
            its token. Constant in θ. None: 1 / number of tokens, so that the loss and
            the metrics are means over all tokens.
        teacher: (hidden [..., D_t], head [V_t, D_t]) of the teacher; or its stored
            `TopK` tokens, completed by the student's own tail, without a product; or a
            `Mixture` of these. Constant in θ.
        reference: the same of the frozen reference.
        chunk_size: tokens C per chunk; C·V float32 logits exist at a time, twice as
            many with a second model. Every chunk reads both heads, so less than 1,024
            costs time on accelerators; on a CPU 512 is fast.
        vocab_size: real vocabulary; rows of either head past it carry no probability.
            Default: the smaller number of rows.
        logit_caps: soft caps c of "student", "teacher" and "reference", whose logits
            are c · tanh(hidden @ headᵀ / c); no cap if absent or None.
        layout: sharding of tokens and heads (see `sharded.MeshLayout`).
        head_gradient: False where the head is frozen: its gradient is neither computed
            nor stored, which saves one product per chunk.
        histograms: add Σ weights of the tokens in each bin of `histogram.EDGES`,
            [BINS], as `histogram_gamma`, `histogram_label_prob`, `histogram_entropy`.
        **inputs: the method's per-token inputs [...] and hyper-parameters, constant in
            θ.

    Returns:
        The loss [] and metrics, each Σ weights · statistic [] (means, if the weights
        sum to one), detached: `nll`, `gamma`, `strength`, `negative_mass`, `entropy`,
        `label_prob`, `accuracy`, and `kl_teacher` or `kl_reference` with a second
        model. A loss function has no `gamma`, `strength` or `negative_mass`.
        `labels_outside` is the number of tokens of nonzero weight whose label is
        outside the vocabulary; the reason of a NaN loss if it is not 0.

    Raises:
        ValueError: unknown or missing inputs, shapes that do not fit; or, unless it is
            traced, a label, weight, input or hyper-parameter outside its domain.
        NotImplementedError: a second derivative. `objective` of the logits has them.

    Example:
        Five tokens, the first two of them a prompt:

        >>> import jax.numpy as jnp
        >>> hidden, head = jnp.ones((5, 8)), jnp.zeros((16, 8))
        >>> labels = jnp.array([3, 1, 4, 1, 5])
        >>> mask = jnp.array([0.0, 0.0, 1.0, 1.0, 1.0])
        >>> loss, metrics = fused_loss(
        ...     "sft", hidden, head, labels, weights=mask / mask.sum()
        ... )
        >>> f"{loss:.4f}", f"{metrics['label_prob']:.4f}"  # log 16, 1 / 16
        ('2.7726', '0.0625')
    """
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    hidden, head = real_array("hidden", hidden), real_array("head", head)
    caps = _caps(logit_caps)
    models = {"teacher": teacher, "reference": reference}
    spec, second, columns = _plan(method, models, caps, inputs, np.shape(labels))
    spec = replace(spec, cap=caps["student"], histograms=histograms)
    if weights is None:
        shape = np.shape(labels)
        weights = jnp.asarray(np.full(shape, 1 / max(1, math.prod(shape))))
    check_shapes(hidden, head, second, columns, labels=labels, weights=weights)
    vocabulary = real_vocabulary(head, second, vocab_size)
    counts = counted(weights)
    labels, weights = label_array(labels, vocabulary, counts), weight_array(weights)
    if spec.method is not None:
        columns = token_columns(spec.method, columns, labels.shape, counts)
    states = {key: tuple(map(_states, models)) for key, models in second.items()}
    heads = {key: tuple(map(_head, models)) for key, models in second.items()}
    constants = (Batch(labels, weights, columns, states), heads)
    trained = ("hidden", "head") if head_gradient else ("hidden",)
    run = partial(_evaluate, spec, layout or Layout(), vocabulary, chunk_size)

    @jax.custom_vjp
    def loss(hidden: Array, head: Array, constants: Any) -> tuple[Array, Metrics]:
        value, metrics = run(hidden, head, *constants, gradients=())
        return value, metrics

    def forward(
        hidden: Array, head: Array, constants: Any
    ) -> tuple[tuple[Array, Metrics], tuple[Array, ...]]:
        hidden, head = first_order((hidden, head), "fused_loss", _DENSE)
        value, metrics, *gradients = run(hidden, head, *constants, gradients=trained)
        return (value, metrics), tuple(gradients)

    def backward(
        gradients: tuple[Array, ...], cotangent: tuple[Array, Metrics]
    ) -> tuple[Array | None, ...]:
        scale = cotangent[0]
        scaled = [(scale * x).astype(x.dtype) for x in gradients]
        return (*scaled, *[None] * (3 - len(scaled)))

    loss.defvjp(forward, backward)
    value, metrics = loss(hidden, head, jax.tree.map(stop_gradient, constants))
    metrics |= {"labels_outside": jnp.sum((labels < 0) & (weights != 0))}
    return value, jax.tree.map(stop_gradient, metrics)


@dataclass(frozen=True)
class Layout:
    """Sharding of tokens and vocabulary: unsharded, on a single device.

    The loss calls these methods wherever devices would exchange arrays;
    `sharded.MeshLayout` overrides them with collectives.
    """

    def run(
        self, local: Callable[..., Any], results: tuple[str, ...], *arguments: Any
    ) -> Any:
        """Call `local` on each device's part of hidden, head, batch and heads.

        `local` returns a tuple; `results` names the sharding of each entry:
        "everywhere" (replicated), "tokens" (by token) or "head" (as the head).
        """
        return local(*arguments)

    def columns(self, vocabulary: int, shared: int) -> tuple[Columns, int]:
        """This device's columns, and their number."""
        # Rows in full tiles of 128 where the heads have them: no ragged products.
        size = min(shared, round_up(vocabulary, 128))
        return Columns(vocabulary, padded=size > vocabulary), size

    def tokens_in(self, tree: Any) -> Any:
        """Arrays over this device's tokens -> over those of its vocabulary group."""
        return tree

    def rows_in(self, head: Array, size: int, width: int) -> Array:
        """A head [V, width] as stored -> this device's rows [size, width]."""
        return head if head.shape[0] == size else head[:size]

    def tokens_out(self, d_hidden: Array) -> Array:
        """∂hidden of the group's tokens from this device's columns -> ∂hidden of this
        device's tokens from all columns."""
        return d_hidden

    def local_tokens(self, x: Array) -> Array:
        """An array over the group's tokens, replicated in it -> over this device's."""
        return x

    def rows_out(self, d_head: Array, like: Array) -> Array:
        """∂head of this device's rows and tokens -> over all tokens, as stored."""
        return jnp.pad(d_head, [(0, like.shape[0] - d_head.shape[0]), (0, 0)])

    def total(self, sums: Any, shares: Any) -> Any:
        """Reduce over devices: `sums` over tokens, `shares` over tokens and columns."""
        return {**sums, **shares}

    def trips(self, count: Array) -> Array:
        """Number of chunks to run, equal on all devices."""
        return count


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def _caps(caps: Mapping[str, float | None] | None) -> dict[str, float | None]:
    """Soft caps by role.

    Raises:
        ValueError: an unknown role, or a cap that is not a positive number.
    """
    roles = ("student", *(key.removesuffix("_logits") for key in SECOND_MODELS))
    for role, cap in (caps or {}).items():
        if role not in roles or not is_soft_cap(cap):
            raise ValueError(
                f"logit_caps[{role!r}] is {cap}; expected a positive float32 number "
                f"for one of {', '.join(roles)}"
            )
    return dict.fromkeys(roles) | dict(caps or {})


def _plan(
    method: str | Method | TokenLoss,
    models: Mapping[str, Source | Mixture | None],
    caps: Mapping[str, float | None],
    inputs: Mapping[str, Any],
    tokens: tuple[int, ...],
) -> tuple[Spec, Sources, dict[str, Array]]:
    """The loss, sources of its second models by logits name, per-token columns."""
    for dense in SECOND_MODELS:
        if dense in inputs:
            model = dense.removesuffix("_logits")
            raise ValueError(
                f"{dense} is an input of `target` and `objective`; pass fused_loss "
                f"{model}=(hidden, head) instead"
            )
    present = {
        f"{role}_logits": recipe_of(role, x, caps[role])
        for role, x in models.items()
        if x is not None
    }
    recipes = {key: recipe for key, (recipe, _) in present.items()}
    sources = {key: models for key, (_, models) in present.items()}
    if callable(method):
        columns, hyper = _split_columns(inputs, tokens)
        columns = {key: unwrapped(key, x) for key, x in columns.items()}
        return Spec(None, method, hyper, second=recipes), sources, columns
    method, arrays, hyper = resolve(method, {**inputs, **sources})
    key = second_model(arrays)
    second: Sources = {} if key is None else {key: sources[key]}
    # A hyper-parameter may be an array per token, such as target_sft's gamma.
    per_token = {k: v for k, v in hyper.items() if np.ndim(v)}
    hyper = {k: v for k, v in hyper.items() if k not in per_token}
    columns = {k: v for k, v in arrays.items() if k != key}
    spec = Spec(method, None, hyper, second=recipes)
    return spec, second, {**columns, **per_token}


def _states(source: Source) -> Array | TopK:
    """Per-token arrays of a second model."""
    return source if isinstance(source, TopK) else source[0]


def _head(source: Source) -> Array | None:
    """Head of a second model; None for a stored one."""
    return None if isinstance(source, TopK) else source[1]


def _split_columns(
    inputs: Mapping[str, Any], tokens: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs [*tokens, ...], which are chunked, and all others."""
    columns: dict[str, Any] = {
        key: value
        for key, value in inputs.items()
        if isinstance(value, jax.Array | np.ndarray)
        and value.shape[: len(tokens)] == tokens
    }
    return columns, {k: v for k, v in inputs.items() if k not in columns}


def _evaluate(
    spec: Spec,
    layout: Layout,
    vocabulary: int,
    chunk_size: int,
    hidden: Array,
    head: Array,
    batch: Batch,
    heads: Mapping[str, tuple[Array | None, ...]],
    *,
    gradients: tuple[str, ...],
) -> tuple[Any, ...]:
    """Loss, metrics, and the requested `gradients`."""
    shared = min(other.shape[0] for other in jax.tree.leaves((head, heads)))

    def local(
        hidden: Array,
        head: Array,
        batch: Batch,
        heads: Mapping[str, tuple[Array | None, ...]],
    ) -> tuple[Any, ...]:
        columns, size = layout.columns(vocabulary, shared)

        def rows_of(head: Array, states: Array) -> Array:
            # Cast before resharding: heads are communicated in the compute dtype.
            return layout.rows_in(head.astype(states.dtype), size, states.shape[-1])

        rows = {
            key: tuple(
                None if isinstance(x, TopK) or other is None else rows_of(other, x)
                for other, x in zip(others, batch.second[key])
            )
            for key, others in heads.items()
        }
        lead = batch.labels.ndim
        x, group = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[lead:]),
            layout.tokens_in((hidden, batch)),
        )
        chunks = chunked_loss(
            spec,
            columns,
            x,
            rows_of(head, hidden),
            group,
            rows,
            chunk_size=chunk_size,
            gradients=gradients,
            trips=layout.trips,
        )
        metrics = layout.total(chunks.sums, chunks.shares)
        loss = metrics.pop("loss")
        outputs = []
        if chunks.d_hidden is not None:
            outputs.append(layout.tokens_out(chunks.d_hidden).reshape(hidden.shape))
        if chunks.d_head is not None:
            outputs.append(layout.rows_out(chunks.d_head, head).astype(head.dtype))
        return loss, metrics, *outputs

    shardings = {"hidden": "tokens", "head": "head"}
    results = ("everywhere", "everywhere", *(shardings[name] for name in gradients))
    return layout.run(local, results, hidden, head, batch, heads)


def real_vocabulary(head: Array, second: Sources, real: int | None) -> int:
    """The number of real tokens among the rows that all heads share.

    Raises:
        ValueError: a number that is not a whole one between 1 and the shared rows.
    """
    heads = [_head(source) for sources in second.values() for source in sources]
    shared = min(other.shape[0] for other in (head, *heads) if other is not None)
    return whole_number("vocab_size", shared if real is None else real, 1, shared)


def check_shapes(
    hidden: Array,
    head: Array,
    second: Mapping[str, tuple[Source, ...]] = MappingProxyType({}),
    columns: Mapping[str, Any] = MappingProxyType({}),
    **arrays: Any,
) -> None:
    """Raise ValueError for shapes that do not fit hidden states [..., D].

    Args:
        hidden: [..., D]; head: [V, D].
        second: sources of second models by logits name.
        columns: arrays that begin with the tokens' shape.
        **arrays: arrays [...] of the tokens' shape.
    """
    if head.ndim != 2 or hidden.shape[-1:] != head.shape[-1:]:
        raise ValueError(
            f"hidden {hidden.shape} and head {head.shape} do not fit: expected "
            "[..., D] and [V, D]"
        )
    if 0 in (*hidden.shape, *head.shape):
        raise ValueError(
            f"hidden {hidden.shape} and head {head.shape} have a dimension of 0; "
            "expected at least one token, feature and row of the head"
        )
    tokens = hidden.shape[:-1]
    shapes = {key: np.shape(x) for key, x in arrays.items()}
    for key, sources in second.items():
        for number, source in enumerate(map(_states, sources)):
            name = key if len(sources) == 1 else f"{key}[{number}]"
            of_tokens = source.shape if isinstance(source, TopK) else source.shape[:-1]
            shapes[name] = of_tokens
    shapes |= {key: np.shape(x)[: len(tokens)] for key, x in columns.items()}
    unequal = {key: shape for key, shape in shapes.items() if shape != tokens}
    if unequal:
        raise ValueError(
            f"hidden {hidden.shape} has tokens {tokens}, but "
            + ", ".join(f"{key} has {shape}" for key, shape in unequal.items())
        )
