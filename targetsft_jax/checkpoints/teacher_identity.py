"""Identity of a teacher cache: what its entries are a function of."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.config.roles import INT8
from targetsft_jax.data.examples import Examples
from targetsft_jax.data.teacher_cache import examples_digest
from targetsft_jax.storage.digest import text_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EDGE = 1 << 16


def cache_identity(
    examples: Examples,
    tokenizer: "PreTrainedTokenizerBase",
    teacher: StoredModel | None,
    prompt: str | None = None,
    *,
    int8: bool = False,
) -> dict[str, Any]:
    """Identity of the cache of a teacher on examples.

    Args:
        examples: the tokenized examples.
        tokenizer: the tokenizer that student and teacher share.
        teacher: the teacher; None where a run names none, so that it is not compared.
        prompt: the teacher's own prompt.
        int8: True if the teacher runs in int8.
    """
    identity = {
        "tokenizer": text_digest(tokenizer.backend_tokenizer.to_str()),
        "examples": examples_digest(examples)[:16],
        "teacher.prompt": prompt,
    }
    if teacher is not None:
        identity["teacher"] = weights_signature(teacher)
        identity["teacher.dtype"] = INT8 if int8 else None  # others differ by rounding
    return identity


def weights_signature(model: StoredModel) -> str:
    """Digest of names, sizes, beginnings and ends of a model's files, 16 hex digits.

    Other weights differ in it without reading all of them: safetensors begin with the
    places of their tensors and end in weights.
    """
    digest = hashlib.sha256()
    for part in (model, *model.bases):
        for path in sorted(part.source.rglob("*")):
            if path.is_file() and _is_of_weights(path):
                digest.update(path.relative_to(part.source).as_posix().encode())
                _add_file(digest, path)
    return digest.hexdigest()[:16]


def _is_of_weights(path: Path) -> bool:
    # Cards and tokenizers beside the weights may change.
    return path.suffix not in (".md", ".txt", ".jinja", ".yaml") and (
        path.suffix != ".json" or path.name in ("config.json", "adapter_config.json")
    )


def _add_file(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        if size > 2 * _EDGE:
            file.seek(-_EDGE, 2)
        digest.update(file.read())
