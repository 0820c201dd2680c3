"""SHA-256 of everything that is read from a source."""

import dataclasses
import hashlib
import json

from targetsft_jax.data.config import DataConfig, SourceConfig, paths
from targetsft_jax.data.files import list_files

_CHUNK = 1 << 20


def content_hash(config: SourceConfig) -> str:
    """SHA-256 of the content of a source, or of all sources of a mixture.

    It covers the bytes of the files in order, but not their names or folder; for
    generated problems, their settings. Keys that filter rows or map fields (`where`,
    `fields`, `limit`, …) do not contribute. A missing data set of the catalogue is
    built.

    Returns:
        64 hex digits.

    Raises:
        ValueError: a file is missing, or the data set cannot be built.
    """
    digest = hashlib.sha256()
    if isinstance(config, DataConfig) and config.mixture:
        for source in config.mixture:
            digest.update(content_hash(source).encode())
    elif config.kind == "synthetic":
        settings = dataclasses.asdict(config.synthetic)
        digest.update(json.dumps(settings, sort_keys=True).encode())
    else:
        for path in _files(config):
            # One digest per file, so that file boundaries count.
            file_digest = hashlib.sha256()
            with open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    file_digest.update(chunk)
            digest.update(file_digest.digest())
    return digest.hexdigest()


def _files(config: SourceConfig) -> list[str]:
    if config.source == "tfds":
        from targetsft_jax.data.catalogue.builder import build_if_missing

        manual_dir = paths(config)[0] if config.path else None
        assert config.dataset is not None
        built, split = build_if_missing(
            config.dataset, config.split, config.data_dir, manual_dir
        )
        return [str(path) for path in built.files[split]]
    return list_files(config).paths
