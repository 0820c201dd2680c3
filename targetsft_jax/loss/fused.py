"""The fused loss: from hidden states and a head to a loss, with no [tokens, V] array.

The gradient is made together with the value, chunk by chunk (see `chunks`), so the
backward pass only scales what the forward pass has made. No method is known by name
here. A loss that is no method (any function of logits and labels) takes part through
autodiff of one chunk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.loss.chunks import Batch, Spec, TokenLoss, pull
from targetsft_jax.loss.tile import Columns
from targetsft_jax.targets.api import SECOND_MODELS, resolve, second_model

Metrics = dict[str, Array]
Model = tuple[Array, Array]

DEFAULT_CHUNK = 2048


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
    logit_caps: Mapping[str, float | None] | None = None,
    layout: "Layout | None" = None,
    head_gradient: bool = True,
    histograms: bool = False,
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
            with a second model. A chunk reads both heads, so that on accelerators less
            than 1,024 costs time; on a CPU 512 is fast.
        vocab_size: real vocabulary; rows of either head past it carry no probability.
            Default: the smaller number of rows.
        logit_caps: for models whose logits are c · tanh(hidden @ headᵀ / c): the c of
            "student", "teacher" and "reference"; no cap where absent or None.
        layout: how tokens and heads lie on devices (see `sharded.MeshLayout`).
        head_gradient: False where the head is frozen: constant in θ, so that its
            gradient is neither made nor held, and one product of a chunk fewer.
        histograms: add Σ weights of the tokens in each bin of `histogram.EDGES`,
            [BINS], as `histogram_gamma`, `histogram_label_prob`, `histogram_entropy`.
        **inputs: the method's per-token inputs [...] and hyper-parameters.

    Returns:
        The loss [] and metrics, each Σ weights · statistic [] (means, if the weights
        sum to one), detached: `nll`, `gamma`, `strength`, `negative_mass`, `entropy`,
        `label_prob`, `accuracy`, and `kl_teacher` or `kl_reference` where a second
        model takes part. A loss given as a function has no gamma, strength or
        negative mass.

    Raises:
        ValueError: unknown or missing inputs, shapes that do not fit, or a cap that is
            not positive.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    spec, second, columns = _plan(name, teacher, reference, inputs, labels.shape)
    spec = replace(spec, caps=named_caps(logit_caps), histograms=histograms)
    vocabulary = _vocabulary(head, second, vocab_size)
    _check(hidden, head, labels, weights, second, columns)
    states = {key: model[0] for key, model in second.items()}
    heads = {key: model[1] for key, model in second.items()}
    constants = (Batch(labels, weights, columns, states), heads)
    pulled = ("hidden", "head") if head_gradient else ("hidden",)
    run = partial(_evaluate, spec, layout or Layout(), vocabulary, chunk_size)

    @jax.custom_vjp
    def loss(hidden: Array, head: Array, constants: Any) -> tuple[Array, Metrics]:
        value, metrics = run(hidden, head, *constants, gradients=())
        return value, metrics

    def forward(
        hidden: Array, head: Array, constants: Any
    ) -> tuple[tuple[Array, Metrics], tuple[Array, ...]]:
        value, metrics, *pulls = run(hidden, head, *constants, gradients=pulled)
        return (value, metrics), tuple(pulls)

    def backward(
        saved: tuple[Array, ...], cotangent: tuple[Array, Metrics]
    ) -> tuple[Array | None, ...]:
        scale = cotangent[0]
        pulls = [(scale * pull).astype(pull.dtype) for pull in saved]
        return (*pulls, *[None] * (3 - len(pulls)))

    loss.defvjp(forward, backward)
    value, metrics = loss(hidden, head, jax.tree.map(stop_gradient, constants))
    return value, jax.tree.map(stop_gradient, metrics)


@dataclass(frozen=True)
class Layout:
    """Where tokens and columns lie; this one is a single device.

    What the loss does between entering its devices' code and leaving it is the same
    everywhere; `sharded.MeshLayout` fills in the collectives.
    """

    def run(
        self, local: Callable[..., Any], results: tuple[str, ...], *arguments: Any
    ) -> Any:
        """Calls `local` on what each device holds of hidden, head, batch, heads.

        It returns a tuple; `results` says where each entry lies: "everywhere", on its
        "tokens" or as the "head" is stored.
        """
        return local(*arguments)

    def columns(self, vocabulary: int, shared: int) -> tuple[Columns, int]:
        """This device's columns, and how many they are."""
        # Rows in whole tiles of 128 where the heads have them: no ragged products.
        size = min(shared, round_up(vocabulary, 128))
        return Columns(vocabulary, padded=size > vocabulary), size

    def tokens_in(self, tree: Any) -> Any:
        """Arrays by token -> those of all tokens that meet this device's columns."""
        return tree

    def rows_in(self, head: Array, size: int, width: int) -> Array:
        """A head [V, width] as it is stored -> this device's rows [size, width]."""
        return head if head.shape[0] == size else head[:size]

    def tokens_out(self, d_hidden: Array) -> Array:
        """∂hidden of this device's columns -> of all columns, its own tokens."""
        return d_hidden

    def own_tokens(self, x: Array) -> Array:
        """What all devices know of all tokens that met -> of this device's own."""
        return x

    def rows_out(self, d_head: Array, like: Array) -> Array:
        """∂head of this device's rows and tokens -> of all tokens, as it is stored."""
        return jnp.pad(d_head, [(0, like.shape[0] - d_head.shape[0]), (0, 0)])

    def total(self, sums: Any, shares: Any) -> Any:
        """Sums over tokens, and shares over tokens and columns, of all devices."""
        return {**sums, **shares}

    def trips(self, count: Array) -> Array:
        """Chunks that every device runs."""
        return count


def named_caps(caps: Mapping[str, float | None] | None) -> dict[str, float]:
    """Soft caps by the name of their logits, those of the student "logits".

    Raises:
        ValueError: an unknown role, or a cap that is not positive.
    """
    keys = {
        "student": "logits",
        **{k.removesuffix("_logits"): k for k in SECOND_MODELS},
    }
    found = {role: cap for role, cap in (caps or {}).items() if cap is not None}
    for role, cap in found.items():
        if role not in keys or not cap > 0:
            raise ValueError(
                f"logit_caps[{role!r}] is {cap}; expected a positive number for one of "
                f"{', '.join(keys)}"
            )
    return {keys[role]: float(cap) for role, cap in found.items()}


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def _plan(
    name: str | TokenLoss,
    teacher: Model | None,
    reference: Model | None,
    inputs: Mapping[str, Any],
    tokens: tuple[int, ...],
) -> tuple[Spec, dict[str, Model], dict[str, Array]]:
    """Which loss, which second models it reads, and its per-token columns."""
    for dense in SECOND_MODELS:
        if dense in inputs:
            model = dense.removesuffix("_logits")
            raise ValueError(f"give {model}=(hidden, head) in place of {dense}")
    models = {"teacher_logits": teacher, "reference_logits": reference}
    present = {key: model for key, model in models.items() if model is not None}
    if callable(name):
        columns, hyper = _split_columns(inputs, tokens)
        return Spec(None, name, hyper), present, columns
    method, arrays, hyper = resolve(name, {**inputs, **present})
    key = second_model(arrays)
    second = {} if key is None else {key: present[key]}
    columns = {k: jnp.asarray(v) for k, v in arrays.items() if k != key}
    # A hyper-parameter may be given per token, such as target_sft's gamma.
    per_token, hyper = _split_columns(hyper, tokens)
    return Spec(method, None, hyper), second, {**columns, **per_token}


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


def _evaluate(
    spec: Spec,
    layout: Layout,
    vocabulary: int,
    chunk_size: int,
    hidden: Array,
    head: Array,
    batch: Batch,
    heads: Mapping[str, Array],
    *,
    gradients: tuple[str, ...],
) -> tuple[Any, ...]:
    """Loss, metrics, and of ∂hidden and ∂head those that are named."""
    shared = min([head.shape[0], *(other.shape[0] for other in heads.values())])

    def local(
        hidden: Array, head: Array, batch: Batch, heads: Mapping[str, Array]
    ) -> tuple[Any, ...]:
        columns, size = layout.columns(vocabulary, shared)

        def enter(head: Array, states: Array) -> Array:
            # Cast before it moves: a head travels in the dtype of its products.
            return layout.rows_in(head.astype(states.dtype), size, states.shape[-1])

        rows = {key: enter(other, batch.second[key]) for key, other in heads.items()}
        lead = batch.labels.ndim
        x, met = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[lead:]),
            layout.tokens_in((hidden, batch)),
        )
        made = pull(
            spec,
            columns,
            x,
            enter(head, hidden),
            met,
            rows,
            chunk_size=chunk_size,
            gradients=gradients,
            trips=layout.trips,
        )
        metrics = layout.total(made.sums, made.shares)
        loss = metrics.pop("loss")
        pulls = []
        if made.d_hidden is not None:
            pulls.append(layout.tokens_out(made.d_hidden).reshape(hidden.shape))
        if made.d_head is not None:
            pulls.append(layout.rows_out(made.d_head, head).astype(head.dtype))
        return loss, metrics, *pulls

    places = {"hidden": "tokens", "head": "head"}
    results = ("everywhere", "everywhere", *(places[name] for name in gradients))
    return layout.run(local, results, hidden, head, batch, heads)


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
