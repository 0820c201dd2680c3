"""What a source's content is, as one number that changes with every byte."""

import dataclasses
import hashlib
import json

from targetsft_jax.data.config import DataConfig, SourceConfig, paths
from targetsft_jax.data.hf_folder import split_files
from targetsft_jax.data.sources import present

_BYTES_AT_A_TIME = 1 << 20


def identity(config: SourceConfig) -> str:
    """sha256 of the content that a source reads, or of all sources of a mixture.

    It is over the bytes of the files in their order, wherever they lie and whatever
    they are called; over the settings of generated problems. Keys that choose among
    rows or make text of them (`where`, `fields`, `limit`, …) are not part of it. A
    data set of the catalogue is built where it was not.

    Raises:
        ValueError: a file is missing, or the data set cannot be built.
    """
    digest = hashlib.sha256()
    if isinstance(config, DataConfig) and config.mixture:
        for source in config.mixture:
            digest.update(identity(source).encode())
    elif config.source == "synthetic":
        settings = dataclasses.asdict(config.synthetic)
        digest.update(json.dumps(settings, sort_keys=True).encode())
    else:
        for path in _files(config):
            # A digest each keeps two files apart from the same bytes in one.
            own = hashlib.sha256()
            with open(path, "rb") as file:
                while chunk := file.read(_BYTES_AT_A_TIME):
                    own.update(chunk)
            digest.update(own.digest())
    return digest.hexdigest()


def _files(config: SourceConfig) -> list[str]:
    if config.source == "hf_dataset":
        return split_files(paths(config)[0], config.split)
    if config.source == "tfds":
        from targetsft_jax.data.catalogue.builder import ready

        manual_dir = paths(config)[0] if config.path else None
        assert config.dataset is not None
        built, split = ready(config.dataset, config.split, config.data_dir, manual_dir)
        return [str(path) for path in built.files[split]]
    return list(present(paths(config)))
