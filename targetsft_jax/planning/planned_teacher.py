"""Stored teacher of a planned run, whose cache exists or is yet to be made."""

from dataclasses import dataclass

from targetsft_jax.checkpoints.open import open_model
from targetsft_jax.checkpoints.stored_teacher import TEACHER, StoredTeacher
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.data.teacher_cache import FILE, STATES, TOP_K, TRAIN, CacheHeader
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.storage.shared_folder import folder_to_read
from targetsft_jax.training.step_spec import stored_teacher
from targetsft_jax.training.tiny_models import architecture


@dataclass(frozen=True)
class Store:
    """Contents of a cache that is yet to be made, as in the command `teacher_cache`.

    Attributes:
        kind: `TOP_K` or `STATES`; None: `TOP_K`, or what an existing cache has.
        k: tokens per entry of `TOP_K`; None: 64, or what an existing cache has.
    """

    kind: str | None = None
    k: int | None = None

    @property
    def is_default(self) -> bool:
        """True if nothing was requested."""
        return self.kind is None and self.k is None

    def matches(self, header: CacheHeader) -> bool:
        """Return whether an existing cache has the requested contents."""
        if self.kind not in (None, header.kind):
            return False
        return header.kind == STATES or self.k in (None, header.width)


DEFAULT = Store()


def planned_teacher(
    config: Config, store: Store = DEFAULT
) -> tuple[CacheHeader, StoredTeacher] | None:
    """Return header and teacher of `teacher.cache`; None if the run reads none.

    Args:
        config: configuration of the run.
        store: contents of a cache that does not exist.

    Raises:
        ConfigError: a cache of other contents exists, the run reads no cache, or
            `teacher.path` is missing, which has the width of the hidden states.
        ValueError, OSError: the cache or the teacher's folder cannot be used.
    """
    if config.teacher.cache is None or TEACHER not in config.method.roles:
        if not store.is_default:
            raise ConfigError(
                "--store and --k describe a teacher cache, and the run reads none; "
                "expected teacher.cache and a target with a teacher"
            )
        return None
    cache = folder_to_read(config.teacher.cache, "teacher.cache", _is_about)
    folder = cache / TRAIN
    header = CacheHeader.read(folder)
    if header is not None:
        if not store.matches(header):
            raise ConfigError(
                f"teacher.cache {config.teacher.cache} exists and has the {header}; "
                "expected no --store and no --k, or another folder"
            )
        return header, stored_teacher(header, folder)
    if store.kind != STATES:
        header = CacheHeader(TOP_K, store.k or 64, 0, {})
        return header, stored_teacher(header, folder)
    teacher = _architecture(config)
    header = CacheHeader(STATES, teacher.hidden_size, 0, {})
    return header, StoredTeacher(STATES, teacher.hidden_size, teacher)


def _is_about(name: str) -> bool:
    """True for the files of a cache that describe it."""
    return name.endswith((FILE, ".json")) and "/shards/" not in name


def _architecture(config: Config) -> DecoderConfig:
    """Return the architecture of the teacher whose hidden states are to be stored."""
    if config.teacher.build:
        return architecture(config.teacher.build)
    if config.teacher.path is None:
        raise ConfigError(
            "teacher.path is null; expected the teacher, whose config.json has the "
            "width of the hidden states to be stored"
        )
    return open_model(config.teacher.path, weights=False).config
