"""Table of the inputs of methods beyond logits and labels.

The functional API checks their shapes, the data pipeline reads those that are columns,
and the configuration offers the policies that can compute them. A new per-token input
needs one line here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from targetsft_jax import keys


@dataclass(frozen=True)
class Input:
    """One input of a method.

    Attributes:
        name: keyword of the API, and field of a data row.
        per: "model" for the logits [..., V] of a second model; "token" for a column
            with a number for each token [...]; "example" for a column with one number
            for all tokens of an example.
        domain: accepted values of a column; None for any number.
        policy_sources: values of the key `policy.NAME` for a column that a run can
            also compute; "data" reads it from the rows.
        weighs: True for a factor of the label's loss, so that 0 trains nothing.
        api_domain: accepted entries of an array of the functional API, where it is
            wider than `domain`; None for the same.
    """

    name: str
    per: Literal["model", "token", "example"]
    domain: keys.Domain | None = None
    policy_sources: tuple[str, ...] = ()
    weighs: bool = False
    api_domain: keys.Domain | None = None

    @property
    def entries(self) -> keys.Domain | None:
        """Accepted entries of an array of the functional API."""
        return self.api_domain or self.domain


_TABLE: dict[str, Input] = {
    entry.name: entry
    for entry in (
        Input("teacher_logits", "model"),
        Input("reference_logits", "model"),
        Input(
            "trajectory_weight",
            "example",
            keys.at_least(0),
            ("current", "ema", "data"),
            weighs=True,
        ),
        Input(
            "critical_mask",
            "token",
            keys.Domain("0 or 1", lambda x: (x == 0) | (x == 1)),
            weighs=True,
        ),
        Input(
            "old_logprob",
            "token",
            keys.Domain("at most 0", lambda x: x <= 0),
            ("snapshot", "data"),
            # −inf where π_old has no mass on the label. Only the ratio counts, so that
            # π_old need not be normalised.
            api_domain=keys.Domain(
                "a number or -inf", lambda x: x < math.inf, infinite=True
            ),
        ),
        Input(
            "reference_prob",
            "token",
            keys.between(0, 1),
            ("reference", "data"),
            weighs=True,
        ),
        Input("label_gamma", "token", keys.between(0, 1), weighs=True),
    )
}

INPUTS: Mapping[str, Input] = MappingProxyType(_TABLE)
"""Every input by name."""

SECOND_MODELS = tuple(entry.name for entry in INPUTS.values() if entry.per == "model")
"""Names of the inputs that are logits of a second model."""


def column_names() -> tuple[str, ...]:
    """Names of the inputs that may be columns of the data."""
    return tuple(entry.name for entry in INPUTS.values() if entry.per != "model")
