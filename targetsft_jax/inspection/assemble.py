"""Assemble a page: rows and models in, header and arrays out."""

import datetime
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.config.schema import Config
from targetsft_jax.data.token_text import token_texts
from targetsft_jax.data.tokenizer import special_ids
from targetsft_jax.inspection.curve_data import curve_data
from targetsft_jax.inspection.measure import (
    TOP,
    has_normaliser,
    normaliser_name,
    scores_name,
)
from targetsft_jax.inspection.measure_rows import measure_rows, trained_tokens
from targetsft_jax.inspection.method_inputs import (
    BEFORE,
    REFERENCE,
    STUDENT,
    TEACHER,
    PageMethod,
    page_methods,
)
from targetsft_jax.inspection.models import Models
from targetsft_jax.inspection.page_data import FORMAT, PADDING, PageData
from targetsft_jax.inspection.rows import PageRows
from targetsft_jax.versions import MODEL, installed_versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STOPS = tuple(round(0.05 * k, 2) for k in range(21))
_ETA = 0.5


def page_of(
    config: Config,
    rows: PageRows,
    models: Models,
    tokenizer: "PreTrainedTokenizerBase",
    names: Mapping[str, str],
) -> PageData:
    """Measure all rows under all models and methods.

    Args:
        config: configuration, whose target is the page's default.
        rows: the examples.
        models: loaded models.
        tokenizer: shared by all models.
        names: "config" and the roles -> their names in the user's words.
    """
    methods = page_methods(config, models.roles, rows.columns, models.reference)
    default = next(x for x in methods if x.name == config.method.name)
    eta = default_eta(default)
    stops = sorted({*_STOPS, eta}) if TEACHER in models.roles else []
    arrays = measure_rows(
        rows.examples,
        models,
        methods,
        stops,
        vocab_size=len(tokenizer),
        policy=config.policy,
        teacher=rows.teacher,
    )
    tokens = np.concatenate([example.tokens for example in rows.examples])
    trained = np.concatenate([trained_tokens(example) for example in rows.examples])
    ids = np.unique(np.concatenate([tokens, arrays["candidate"].reshape(-1)]))
    ids = ids[ids != PADDING]
    arrays |= {
        "token": local_indices(ids, tokens),
        "candidate": local_indices(ids, arrays["candidate"]),
        "token_id": ids.astype(np.int32),
        "trained": trained.astype(np.uint8),
    }
    texts, special = token_texts(tokenizer, ids.tolist()), special_ids(tokenizer)
    header = {
        "format": FORMAT,
        "title": f"{_short(names[STUDENT])}, {rows.source}",
        "provenance": _provenance(names, models, rows),
        "vocabulary_size": len(tokenizer),
        "texts": [texts[id] for id in ids.tolist()],
        "special": [i for i, id in enumerate(ids.tolist()) if id in special],
        "rows": _row_ranges(rows),
        "roles": models.roles,
        "top": TOP,
        "eta_stops": stops,
        "methods": [
            method.entry() | {"alternative": _alternative(method, arrays)}
            for method in methods
        ],
        "default_method": default.name,
        "default_eta": eta,
        "curve": curve_data(methods),
    }
    page = PageData(header, arrays)
    page.check()
    return page


def default_eta(method: PageMethod) -> float:
    """η of the configuration's own method, where it has one; else ½."""
    if method.is_guided and method.mix is not None:
        return round(float(method.mix[1]), 6)
    return _ETA


def local_indices(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of each value among sorted ids, int32; padding is unchanged."""
    return np.where(values == PADDING, PADDING, np.searchsorted(ids, values)).astype(
        np.int32
    )


def _alternative(
    method: PageMethod, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Alternative of a method, in the terms of the page; None without one."""
    if f"b_{method.name}" not in arrays:
        return None
    if method.mix is None:
        return {"kind": "scores", "array": scores_name(method)}
    if method.is_guided:
        return {"kind": "eta_mix", "other": TEACHER}
    alpha, beta = method.mix
    if (alpha, beta) == (0, 0):
        return {"kind": "uniform"}
    return {
        "kind": "mix",
        "alpha": float(alpha),
        "beta": float(beta),
        "other": method.other if beta else None,
        "normaliser": normaliser_name(method) if has_normaliser(method) else None,
    }


def _provenance(
    names: Mapping[str, str], models: Models, rows: PageRows
) -> dict[str, Any]:
    roles = {role: names.get(role) for role in (TEACHER, REFERENCE, BEFORE)}
    if roles[REFERENCE] is None:
        which = "the student" if models.reference == STUDENT else "the earlier model"
        roles[REFERENCE] = f"{which}, since the configuration has none"
    now = datetime.datetime.now(datetime.UTC)
    return {
        "config": names["config"],
        STUDENT: names[STUDENT],
        **roles,
        "rows": rows.source,
        "versions": installed_versions(MODEL),
        "created": f"{now:%Y-%m-%d %H:%M} UTC",
    }


def _short(model: str) -> str:
    """Last two parts of a model's path, such as Qwen/Qwen2.5-0.5B or runs/mine."""
    return "/".join(PurePath(model).parts[-2:]).lstrip("/")


def _row_ranges(rows: PageRows) -> list[dict[str, Any]]:
    """Origin, first token and number of tokens of each row."""
    ranges, first = [], 0
    for example in rows.examples:
        count = len(example.tokens)
        # The name of the file, without the folders of this machine.
        source = example.origin.rpartition("/")[2]
        ranges.append({"source": source, "first": first, "count": count})
        first += count
    return ranges
