"""Folders of a configuration, which must not be written over what a run reads."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from targetsft_jax.config.schema import Config, role_config
from targetsft_jax.data.config import DataConfig, paths, sources
from targetsft_jax.keys import shown
from targetsft_jax.storage.access import check_access
from targetsft_jax.storage.location import is_url, location, url_refusal
from targetsft_jax.storage.mirror import mirrored
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

ROLES = ("student", "teacher", "reference")
_NAME_BYTES = 255
_LOCAL_KEYS = (".chat_template", ".data_dir")


def path_refusals(config: Config) -> Iterator[str]:
    """Errors about run_dir and cache_dir: unusable, or over a model, data or another.

    Links are resolved; nothing is opened or created.
    """
    keys = [("run_dir", config.run_dir), ("cache_dir", config.cache_dir)]
    if config.checkpoint_dir is not None:
        keys.append(("checkpoint_dir", config.checkpoint_dir))
    models, data = list(_models(config)), list(_data(config))
    for key, path in (*keys, *models, *data):
        if refusal := _url_refusal(key, path):
            yield refusal
            return
        if is_url(path):
            continue
        if path.startswith("~") and str(user_path(path)) == path:
            user = path.partition("/")[0]
            yield f"{key} is {shown(path)}; expected a path, since {user} has no home"
            return
        if max(map(len, os.fsencode(path).split(b"/"))) > _NAME_BYTES:
            names = f"names of at most {_NAME_BYTES} bytes"
            yield f"{key} is {shown(path)}; expected a path of {names}"
            return
    for key, path in keys:
        refusal = None if is_url(path) else _unusable(key, path)
        if refusal is not None:
            yield refusal
            return
    run, cache = _resolved(config.run_dir), _resolved(config.cache_dir)
    if run == cache:
        yield (
            f"cache_dir is {shown(config.cache_dir)}, which is run_dir; expected "
            "another folder"
        )
    kind = run.name.partition("-")[0]
    if run.parent == cache and kind in ("data", "datasets", *ROLES):
        yield (
            f"run_dir is {shown(config.run_dir)}, a folder of cache_dir; expected "
            "another one"
        )
    for key, path in (("cache_dir", config.cache_dir), *models, *data):
        if _is_written(_resolved(path), run):
            yield (
                f"run_dir is {shown(config.run_dir)}, and the run would write to {key} "
                f"{shown(path)}; expected another run_dir"
            )
    yield from _checkpoint_refusals(config, [*keys[:2], *models, *data])
    for key, path in models:
        if _is_folder(path) and run.is_relative_to(_resolved(path)):
            yield (
                f"run_dir is {shown(config.run_dir)}, inside the folder of {key}; "
                "expected a folder outside of it"
            )


def run_dir_of(config: Config) -> RunDir:
    """Run directory of a configuration; at a URL, its local folder stands for it."""
    run_dir = (
        mirrored(config.run_dir)
        if is_url(config.run_dir)
        else RunDir(user_path(config.run_dir))
    )
    if config.checkpoint_dir is None:
        return run_dir
    return replace(run_dir, checkpoint_dir=location(config.checkpoint_dir))


def check_stores(config: Config) -> None:
    """Check the access to the object stores that a configuration names.

    Raises:
        OSError: a bucket, credentials, permissions or the network are missing.
    """
    written = {
        "run_dir": config.run_dir,
        "checkpoint_dir": config.checkpoint_dir,
        "cache_dir": config.cache_dir,
    }
    for key, path in written.items():
        if path is not None and is_url(path):
            check_access(key, path, write=True)
    for key, path in (*_models(config), *_data(config)):
        if is_url(path):
            check_access(key, path)


def _url_refusal(key: str, path: str) -> str | None:
    """Error about a URL that the key cannot have, or None."""
    if key.endswith(_LOCAL_KEYS) and is_url(path):
        return f"{key} is {shown(path)}; expected a local path"
    return url_refusal(key, path)


def _checkpoint_refusals(
    config: Config, others: Iterable[tuple[str, str]]
) -> Iterator[str]:
    """Errors about checkpoint_dir: another folder of the run, or one that is read."""
    if config.checkpoint_dir is None:
        return
    folder, run = _resolved(config.checkpoint_dir), _resolved(config.run_dir)
    found = f"checkpoint_dir is {shown(config.checkpoint_dir)}"
    for key, path in others:
        if folder == _resolved(path):
            yield f"{found}, which is {key}; expected a folder of its own"
    if folder != run / "checkpoints" and _is_written(folder, run):
        yield f"{found}, which the run writes for another purpose; expected another one"


def _models(config: Config) -> Iterator[tuple[str, str]]:
    for name in ROLES:
        path = role_config(config, name).path
        if path is not None:
            yield f"{name}.path", path
    for number, other in enumerate(config.teacher.others):
        if other.path is not None:
            yield f"teacher.others[{number}].path", other.path
    if config.teacher.cache is not None:
        yield "teacher.cache", config.teacher.cache


def _data(config: Config) -> Iterator[tuple[str, str]]:
    sections: tuple[tuple[str, DataConfig | None], ...] = (
        ("data", config.data),
        ("validation.data", config.validation.data),
        ("evaluation.data", config.evaluation.data),
    )
    for prefix, section in sections:
        if section is None:
            continue
        if section.chat_template is not None:
            yield f"{prefix}.chat_template", section.chat_template
        for number, source in enumerate(sources(section)):
            key = f"{prefix}.mixture[{number}]" if section.mixture else prefix
            for path in paths(source):
                yield f"{key}.path", path
            if source.data_dir is not None:
                yield f"{key}.data_dir", source.data_dir


def _unusable(key: str, value: str) -> str | None:
    """Error for a path that cannot be a folder of its own, or None."""
    path = _resolved(value)
    here, home = Path.cwd(), _resolved("~")
    if here.is_relative_to(path) and not RunDir(path).checkpoints.is_dir():
        found = "the current folder" if here == path else "a folder above the current"
        return f"{key} is {shown(value)}, {found}; expected a folder of its own"
    if home.is_relative_to(path):
        found = "the home folder" if home == path else "a folder above the home folder"
        return f"{key} is {shown(value)}, {found}; expected a folder of its own"
    written = user_path(value).absolute()
    above = next(p for p in (written, *written.parents) if os.path.lexists(p))
    if not above.is_dir():
        kind = "a link to nothing" if above.is_symlink() else "a file"
        return f"{key} is {shown(value)}, and {above} is {kind}; expected a folder"
    return None


def _is_written(path: Path, run: Path) -> bool:
    """True for the run directory, and for what a run writes in it."""
    if path == run:
        return True
    if not path.is_relative_to(run):
        return False
    run_dir, top = RunDir(run), run / path.relative_to(run).parts[0]
    is_completions = top.name.startswith(run_dir.completions("").stem)
    return is_completions or top in (*run_dir.paths(), run_dir.lock)


def _is_folder(path: str) -> bool:
    """True for a local folder, and for a URL, which is not opened."""
    return is_url(path) or os.path.isdir(user_path(path))


def _resolved(path: str) -> Path:
    """Path without links, for comparisons; a URL is below a name of its own."""
    if is_url(path):
        return Path("/url", path)
    return Path(os.path.realpath(user_path(path)))
