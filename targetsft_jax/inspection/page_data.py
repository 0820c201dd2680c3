"""Data of a page: the header and arrays that the page reads.

N tokens are shown, M of them are trained, in order; C candidates of each trained token
have probabilities under every model. The header has the entries of `HEADER`, the arrays
the names and shapes that `check` requires. Log-probabilities are over the complete
vocabulary, so that the mass outside the candidates is 1 − Σ over them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from targetsft_jax.inspection import container

FORMAT = 1

HEADER = (
    "format",
    "title",
    "provenance",
    "vocabulary_size",
    "texts",
    "special",
    "rows",
    "roles",
    "top",
    "eta_stops",
    "methods",
    "default_method",
    "default_eta",
    "curve",
)
"""Entries of the header. `top` is the number k of most probable tokens of a model among
the candidates, the student's support of `teacher_on_support`."""

PADDING = -1
"""Candidate of a token that has fewer than C."""


@dataclass(frozen=True)
class PageData:
    """Everything that a page shows.

    Attributes:
        header: JSON values by the names in `HEADER`.
        arrays: float32, int32 or uint8 arrays by name.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """The container of this page."""
        return container.write(self.header, self.arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "PageData":
        """The page of a container.

        Raises:
            ValueError: bytes that are not a container.
        """
        header, arrays = container.read(data)
        return cls(header, arrays)

    def check(self) -> None:
        """Check the entries and the arrays against each other.

        Raises:
            ValueError: a missing entry or array, or another shape or dtype.
        """
        missing = [name for name in HEADER if name not in self.header]
        if missing:
            raise ValueError(f"the page lacks the entries {', '.join(missing)}")
        for name, (dtype, shape) in self._expected().items():
            array = self.arrays.get(name)
            if array is None:
                raise ValueError(f"the page lacks the array {name}")
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"array {name} is {array.dtype} {array.shape}; expected "
                    f"{np.dtype(dtype)} {shape}"
                )

    def _expected(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Dtype and shape of every array by name."""
        header, arrays = self.header, self.arrays
        shown = sum(row["count"] for row in header["rows"])
        trained = int(arrays["trained"].sum())
        candidates = arrays["candidate"].shape[-1]
        per_token, per_candidate = (trained,), (trained, candidates)
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "token": (np.int32, (shown,)),
            "token_id": (np.int32, (len(header["texts"]),)),
            "trained": (np.uint8, (shown,)),
            "candidate": (np.int32, per_candidate),
        }
        names = ["entropy", "top_entropy", "sum_squares"]
        if "teacher" in header["roles"]:
            names += ["kl_teacher", "teacher_on_support", "teacher_entropy"]
            stops = len(header["eta_stops"])
            expected["logz_eta"] = (np.float32, (trained, stops))
        if "before" in header["roles"]:
            names.append("entropy_before")
        for role in header["roles"]:
            expected[f"logprob_{role}"] = (np.float32, per_candidate)
        for method in header["methods"]:
            if method["refusal"] is not None:
                continue
            names.append(f"a_{method['name']}")
            alternative = method["alternative"]
            if alternative is not None:
                names.append(f"b_{method['name']}")
                if alternative.get("normaliser"):
                    names.append(alternative["normaliser"])
            if alternative is not None and alternative["kind"] == "scores":
                expected[alternative["array"]] = (np.float32, per_candidate)
        return expected | {name: (np.float32, per_token) for name in names}
