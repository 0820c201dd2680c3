"""Persistent cache of compiled programs, so that a restart does not compile them again.

jax keys a program by its code, its devices, the compiler's version and options. The
key of a program for CPUs does not include the instructions of the CPU: a home directory
of several machines has a folder for each kind.
"""

import platform
from pathlib import Path
from typing import Any

import jax

from targetsft_jax.storage.digest import text_digest
from targetsft_jax.storage.location import location

_COMPILED = "compiled"

_EVENTS = {
    "/jax/compilation_cache/cache_hits": "cached",
    "/jax/compilation_cache/cache_misses": "compiled",
}
_counts = dict.fromkeys(_EVENTS.values(), 0)
_listens = False


def use_compilation_cache(cache_dir: str) -> None:
    """Keep the programs of this process in a cache; call it before the first one.

    A folder that jax has already, by JAX_COMPILATION_CACHE_DIR, stays; with
    JAX_ENABLE_COMPILATION_CACHE=false there is none.

    Args:
        cache_dir: `cache_dir` of a run; a folder per platform is in its `compiled`.
    """
    global _listens
    if not _listens:
        jax.monitoring.register_event_listener(_count)
        _listens = True
    settings: Any = jax.config  # Its attributes are not in its type.
    enabled = settings.jax_enable_compilation_cache
    if settings.jax_compilation_cache_dir or not enabled:
        return
    name = jax.default_backend()
    if name == "cpu":
        name = f"cpu-{text_digest(_cpu_features())[:8]}"
    # jax reads and writes a URL itself.
    root = location(cache_dir)
    jax.config.update("jax_compilation_cache_dir", str(root / _COMPILED / name))


def program_counts() -> dict[str, int]:
    """Programs of this process that were read from the cache, and `compiled` ones.

    Programs that compile in less than a second are not kept and not counted.
    """
    return dict(_counts)


def _count(event: str, **_: object) -> None:
    if event in _EVENTS:
        _counts[_EVENTS[event]] += 1


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return platform.processor()
    features = (line for line in lines if line.startswith(("flags", "Features")))
    return next(features, platform.processor())
