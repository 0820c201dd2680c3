"""CSV files of numbers, at full precision."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from targetsft_jax.storage import atomic


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the same keys under one header; returns the file.

    None and nan become empty fields.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _field(v) for k, v in row.items()} for row in rows)
    atomic.write_text(path, stream.getvalue())
    return path


def _field(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value
