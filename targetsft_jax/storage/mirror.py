"""A local run directory whose files are also in an object store.

Object stores cannot append, so a run writes its logs and exports to a local folder.
They are uploaded before each checkpoint is saved, and when the run ends; another
machine downloads them before it resumes. Checkpoints are in the store alone.
"""

from collections.abc import Iterator
from pathlib import Path

from targetsft_jax.storage import atomic, manifest, object_store
from targetsft_jax.storage.location import local_folder, location
from targetsft_jax.storage.run_dir import RunDir


def mirrored(url: str) -> RunDir:
    """Run directory at a URL: its local folder, and checkpoints in the store."""
    return RunDir(local_folder("runs", url), location(f"{url}/checkpoints"), url=url)


class Mirror:
    """Copies of the files of a run directory in an object store.

    Args:
        run_dir: from `mirrored`.
    """

    def __init__(self, run_dir: RunDir):
        assert run_dir.url is not None
        self._run_dir, self._url = run_dir, run_dir.url
        # Name -> size and time of the version in the store.
        self._uploaded: dict[str, tuple[int, int]] = {}

    def download(self) -> None:
        """Copy the files of earlier sessions into the local folder.

        Those of the store win: they are as of the newest checkpoint, or later.
        Exports are left out, since a run that resumes writes them again.
        """
        left_out = [path.name for path in self._left_out()]
        for name, stored in object_store.list_objects(self._url).items():
            if name.partition("/")[0] not in left_out:
                target = self._run_dir.path / name
                if not object_store.is_copy(target, stored):
                    object_store.fetch(f"{self._url}/{name}", target, stored)
                self._uploaded[name] = _version(target)

    def upload(self) -> None:
        """Copy new and changed files to the store, the manifests of exports last.

        Raises:
            OSError: a file was not uploaded.
        """
        names = sorted(self._names(), key=lambda name: name.endswith(manifest.FILE))
        for name in names:
            path = self._run_dir.path / name
            if (version := _version(path)) != self._uploaded.get(name):
                object_store.publish(path, f"{self._url}/{name}")
                self._uploaded[name] = version
        for folder in (self._run_dir.export, self._run_dir.adapter_export):
            if folder.is_dir():
                url = f"{self._url}/{folder.name}"
                stale = object_store.list_objects(url).keys() - {
                    name.partition("/")[2] for name in names
                }
                object_store.remove(url, sorted(stale))

    def _names(self) -> Iterator[str]:
        root = self._run_dir.path
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            partial = any(map(atomic.is_partial, name.split("/")))
            if path.is_file() and not partial and path != self._run_dir.lock:
                yield name

    def _left_out(self) -> list[Path]:
        run_dir = self._run_dir
        local = RunDir(run_dir.path, run_dir.path / "checkpoints")
        return [
            Path(local.checkpoints),
            Path(local.damaged_checkpoints),
            run_dir.export,
            run_dir.adapter_export,
            run_dir.profile,
        ]


def _version(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns
