"""Second models of a loss: live, stored, or several mixed into one.

A method reads one tile of second logits. It comes from a product of hidden states with
a head, from stored top-k log-probabilities without a product, or from several of these:

    logits         z_2 = Σ w_i z_i          a geometric mixture, π ∝ Π π_i^w_i
    probabilities  z_2 = log Σ w_i π_i      an arithmetic mixture
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.keys import more_than
from targetsft_jax.loss.tile import Columns
from targetsft_jax.targets.arguments import real_array
from targetsft_jax.targets.method import Hyper
from targetsft_jax.targets.top_k import TopK, checked_top_k, completed_logits

Model = tuple[Array, Array]
"""Hidden states [..., D] and head [V, D] of a model."""

Source = Model | TopK
Space = Literal["logits", "probabilities"]

_CAP = Hyper(30.0, "Soft cap.", more_than(0), static=True)
_WEIGHT = Hyper(1.0, "Weight of a model.", more_than(0), static=True)


@dataclass(frozen=True)
class Mixture:
    """Several second models, mixed into one distribution.

    Attributes:
        models: (hidden [..., D_i], head [V_i, D_i]), or `TopK`.
        weights: positive numbers, divided by their sum; None: equal.
        space: "logits" for the normalised geometric mixture Π π_i^w_i, "probabilities"
            for Σ w_i π_i.
        caps: soft cap of each model's logits, None for no cap; None: no caps.
    """

    models: Sequence[Source]
    weights: Sequence[float] | None = None
    space: Space = "logits"
    caps: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Recipe:
    """Mixture of the sources of a second model; static.

    Attributes:
        weights: one per source, summing to one.
        space: as in `Mixture`.
        caps: soft cap of each source's logits.
    """

    weights: tuple[float, ...] = (1.0,)
    space: Space = "logits"
    caps: tuple[float | None, ...] = (None,)


def recipe_of(
    name: str, model: Source | Mixture, cap: float | None
) -> tuple[Recipe, tuple[Source, ...]]:
    """Recipe and checked sources of a second model.

    Args:
        name: "teacher" or "reference", for errors.
        model: the argument of the loss.
        cap: soft cap of the logits of a single model.

    Raises:
        ValueError: weights, caps or arrays that do not fit.
    """
    if not isinstance(model, Mixture):
        return Recipe(caps=(cap,)), (_source(name, model),)
    count = len(model.models)
    weights = [1.0] * count if model.weights is None else list(model.weights)
    caps = [None] * count if model.caps is None else list(model.caps)
    if not count or len(weights) != count or len(caps) != count:
        raise ValueError(
            f"{name} is a mixture of {count} models with {len(weights)} weights and "
            f"{len(caps)} caps; expected as many of each, at least one"
        )
    if cap is not None:
        raise ValueError(
            f"logit_caps[{name!r}] is {cap} and {name} is a mixture; set the caps of "
            "its models in the mixture"
        )
    if model.space not in ("logits", "probabilities"):
        raise ValueError(
            f"{name} is mixed in {model.space!r}; expected 'logits' or 'probabilities'"
        )
    refusals = (_WEIGHT.refusal(f"a weight of {name}", weight) for weight in weights)
    if refusal := next(filter(None, refusals), None):
        raise ValueError(refusal)
    if wrong := [cap for cap in caps if not is_soft_cap(cap)]:
        raise ValueError(
            f"the soft cap of {name} is {wrong[0]!r}; expected a positive float32 "
            "number, or None"
        )
    total = math.fsum(weights)
    recipe = Recipe(
        tuple(float(weight) / total for weight in weights),
        model.space,
        tuple(caps),
    )
    return recipe, tuple(_source(name, each) for each in model.models)


def is_soft_cap(cap: Any) -> bool:
    """True for a positive float32 number, or None for no cap."""
    return cap is None or not _CAP.refusal("", cap)


def capped_logits(states: Array, head: Array, cap: float | None) -> Array:
    """Logits [C, v] of states [C, D] and a head's rows [v, D], under a soft cap."""
    wide = np.promote_types(states.dtype, np.float32)
    logits = jnp.einsum("cd,vd->cv", states, head, preferred_element_type=wide)
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def second_logits(
    recipe: Recipe,
    columns: Columns,
    logits: Array,
    sources: Sequence[Array | TopK],
    heads: Sequence[Array | None],
) -> Array:
    """A tile [C, v] of a second model's logits.

    Args:
        recipe: mixture of the sources.
        columns: this device's columns.
        logits: the student's tile [C, v], which completes stored distributions.
        sources: hidden states [C, D_i], or the tokens of a stored model.
        heads: rows [v, D_i]; None for a stored model.
    """
    tiles = []
    for source, head, cap in zip(sources, heads, recipe.caps, strict=True):
        if isinstance(source, TopK):
            student = columns.blanked(logits)
            options: Mapping[str, Any] = {
                "first": columns.first,
                "merged": columns.log_total,
            }
            tiles.append(completed_logits(student, source, **options))
        else:
            assert head is not None
            tiles.append(capped_logits(source, head, cap))
    if len(tiles) == 1:
        return tiles[0]
    if recipe.space == "logits":
        terms = [weight * tile for weight, tile in zip(recipe.weights, tiles)]
        return jnp.sum(jnp.stack(terms), axis=0)
    terms = [
        math.log(weight) + _log_softmax(columns.blanked(tile), columns)
        for weight, tile in zip(recipe.weights, tiles)
    ]
    return jax.nn.logsumexp(jnp.stack(terms), axis=0)


def _log_softmax(tile: Array, columns: Columns) -> Array:
    local = jax.nn.logsumexp(tile, axis=-1)
    return tile - columns.log_total(local)[:, None]


def _source(name: str, model: Source) -> Source:
    """A stored model as it is; hidden states and head of a live one, checked."""
    if isinstance(model, TopK):
        return checked_top_k(name, model, model.shape)
    if not isinstance(model, tuple | list) or len(model) != 2:
        raise ValueError(
            f"{name} is {type(model).__name__}; expected (hidden, head), TopK or "
            "Mixture"
        )
    hidden, head = (real_array(f"{name}'s arrays", x) for x in model)
    if head.ndim != 2 or hidden.shape[-1:] != head.shape[-1:]:
        raise ValueError(
            f"{name}'s hidden {hidden.shape} and head {head.shape} do not fit: "
            "expected [..., D] and [V, D]"
        )
    return hidden, head
