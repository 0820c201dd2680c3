"""Identity of a model: a digest of its files, by which its completions are found."""

import hashlib
from pathlib import Path

from targetsft_jax.checkpoints.open import StoredModel
from targetsft_jax.storage import object_store

_BLOCK, _BLOCKS = 2**12, 256
"""Bytes of a block, and blocks per file, that identify a model."""

# Model card and scores do not change completions.
_WITHOUT_EFFECT = (".md", ".yaml")


def model_identity(model: StoredModel) -> str:
    """Digest of the files of a model's weights: names, sizes and blocks of bytes.

    The blocks are spread over each file: merged adapters leave the embedding, the
    first bytes of most files, as it was. Of objects the CRC32C stands for the blocks.
    """
    digest = hashlib.sha256()
    for source in (part.source for part in (model, *model.bases)):
        if not isinstance(source, Path):
            for name, stored in object_store.list_objects(str(source)).items():
                if not name.endswith(_WITHOUT_EFFECT):
                    digest.update(f"{name} {stored.size} {stored.crc32c}".encode())
            continue
        for path in filter(Path.is_file, sorted(source.rglob("*"))):
            if path.suffix in _WITHOUT_EFFECT:
                continue
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
                    file.seek(start)
                    digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]
