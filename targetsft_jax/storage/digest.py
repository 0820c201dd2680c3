"""Short digests, by which files and results of equal inputs are found again."""

import hashlib
import json
from typing import Any


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, its first 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_digest(value: Any) -> str:
    """Digest of a JSON value, which does not depend on the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True))
