"""Models and exports in an object store: local folders that stand for them.

A Hugging Face folder is copied, since its tensors are mapped into memory. Of a run
directory only the small files are: its checkpoints are read where they are.
"""

import contextlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from targetsft_jax.hf.importer import MODEL_FILES, TENSOR_FILES
from targetsft_jax.storage import atomic, manifest, object_store
from targetsft_jax.storage.access import check_access
from targetsft_jax.storage.local_copy import copy_folder
from targetsft_jax.storage.location import is_url, local_folder, url_refusal
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

_CHECKPOINT = re.compile(r"(?P<run>.+)/checkpoints/(?P<step>\d+)")
_CONFIGS = ("config.json", "adapter_config.json")


def local_model(url: str, *, weights: bool = True) -> Path:
    """Local path of a model in an object store, as `open_model` takes it.

    Args:
        url: URL of a Hugging Face folder, a folder of adapters, a run directory, or one
            of its checkpoints RUN/checkpoints/STEP.
        weights: copy the safetensors of a Hugging Face folder, too.

    Raises:
        FileNotFoundError: the URL is none of these.
        OSError: the store cannot be read.
        ValueError: a URL of another store.
    """
    if refusal := url_refusal("the model", url):
        raise ValueError(refusal)
    url = url.rstrip("/")
    check_access("the model", url)
    if match := _CHECKPOINT.fullmatch(url):
        run_dir = local_run(match["run"], "the model")
        return run_dir.path / "checkpoints" / match["step"]
    present = object_store.list_objects(url, depth=1)
    if not any(name in present for name in _CONFIGS):
        return local_run(url, "the model").path
    patterns = [*MODEL_FILES, *(TENSOR_FILES if weights else ())]
    return copy_folder(
        url,
        "the model",
        lambda name: any(fnmatch(name, pattern) for pattern in patterns),
        depth=1,
    )


def local_run(url: str, key: str = "the run directory") -> RunDir:
    """Local folder with the small files of a run, and a reference to its checkpoints.

    Args:
        url: URL of a run directory.
        key: configuration key or option, for messages.

    Raises:
        FileNotFoundError: no run directory is at the URL.
    """
    names = RunDir(Path())
    kept = [names.config, names.metrics, names.results, names.model, names.histograms]
    tops = [path.name for path in (*kept, names.goodput, names.checkpoint_pointer)]
    folder = copy_folder(url, key, lambda name: name.partition("/")[0] in tops)
    run_dir = RunDir(folder)
    if not run_dir.config.is_file() and not run_dir.model.is_dir():
        raise FileNotFoundError(
            f"{url} is not a model: no config.json (Hugging Face folder), no "
            "adapter_config.json (adapters), no config.yaml (run directory)"
        )
    if not run_dir.checkpoint_pointer.is_file():
        atomic.write_text(run_dir.checkpoint_pointer, f"{url}/checkpoints\n")
    return run_dir


@contextlib.contextmanager
def export_folder(out: str) -> Iterator[Path]:
    """Local folder for an export, which is uploaded at the end if `out` is a URL.

    Args:
        out: local path, or URL of a folder of objects, which is absent, or an earlier
            export that nobody changed.

    Raises:
        FileExistsError: the folder of objects has other files.
    """
    if not is_url(out):
        yield user_path(out)
        return
    if refusal := url_refusal("OUT", out):
        raise ValueError(refusal)
    url = out.rstrip("/")
    check_access("OUT", url, write=True)
    before = _replaceable(url)
    folder = local_folder("exports", url)
    yield folder
    names = object_store.publish_folder(folder, url, last=manifest.FILE)
    object_store.remove(url, sorted(before - set(names)))
    atomic.abandon(folder)


def _replaceable(url: str) -> set[str]:
    """Names of the objects of an earlier export; empty if there is none.

    Raises:
        FileExistsError: other objects are there.
    """
    objects = object_store.list_objects(url)
    if not objects:
        return set()
    text = object_store.read_text(f"{url}/{manifest.FILE}")
    sizes = {} if text is None else manifest.sizes(text)
    foreign = [
        name
        for name, stored in objects.items()
        if name != manifest.FILE and sizes.get(name) != stored.size
    ]
    if foreign or not sizes:
        raise FileExistsError(
            f"{url} exists and would be replaced, but it is not as this package wrote "
            f"it: {', '.join(foreign[:5])}. Move it, or pass another folder"
        )
    return set(objects)
