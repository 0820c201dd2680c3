"""The published files of a data set: in a folder, or fetched from the hub."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from targetsft_jax.data.catalogue.entry import DataSet, Layout
from targetsft_jax.data.sources import refuse_half


@dataclass(frozen=True)
class Files:
    """What a data set is built from."""

    layout: Layout
    splits: Mapping[str, list[str]]
    """By split, its files in order."""
    origin: str
    """The folder, or the hub's repository and commit."""


def in_folder(name: str, dataset: DataSet, folder: str) -> Files:
    """The files of a data set in a folder, in any of its layouts.

    A folder may also hold a file a split, named SPLIT.jsonl, SPLIT.jsonl.gz or
    SPLIT.parquet, with the fields of the first layout. Splits without files are left
    out.

    Raises:
        ValueError: no file of any split; one of several files of a split is missing.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder; expected the files of {name}")
    paths = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    plain = {
        split: [f"{split}.jsonl", f"{split}.parquet"]
        for split in dataset.layouts[0].splits
    }
    for layout in (*dataset.layouts, Layout(plain, dataset.layouts[0].example)):
        found = _by_split(layout, paths)
        if found:
            splits = {s: [str(root / p) for p in own] for s, own in found.items()}
            return Files(layout, splits, str(root))
    wanted = sorted(
        {g for own in dataset.layouts for gs in own.splits.values() for g in gs}
    )
    raise ValueError(
        f"{folder} holds no file of {name}; expected some of {', '.join(wanted)}, as"
        f" in {dataset.hub} on the hub or at {dataset.homepage}"
    )


def from_hub(name: str, dataset: DataSet) -> Files:
    """The files of a data set on the hub, all of one commit, through the hub's cache.

    Raises:
        ValueError: they cannot be fetched, or are laid out in another way.
    """
    import huggingface_hub

    layout = dataset.layouts[0]
    with _fetching(name, dataset):
        # The commit is asked for once, so that files of two never meet.
        known = huggingface_hub.HfApi().dataset_info(dataset.hub)
    paths = [sibling.rfilename for sibling in known.siblings or []]
    found = _by_split(layout, paths)
    with _fetching(name, dataset):
        splits = {
            split: [
                huggingface_hub.hf_hub_download(
                    dataset.hub, path, repo_type="dataset", revision=known.sha
                )
                for path in own
            ]
            for split, own in found.items()
        }
    if not splits:
        raise ValueError(
            f"{dataset.hub} on the hub has none of the files that {name} was written"
            f" for ({layout.splits}); it has {', '.join(sorted(paths)[:20])}"
        )
    return Files(layout, splits, f"{dataset.hub}@{known.sha}")


@contextlib.contextmanager
def _fetching(name: str, dataset: DataSet) -> Iterator[None]:
    """Says what to do where the hub cannot be reached, or refuses."""
    try:
        yield
    except Exception as error:  # The hub's client lets those of others through.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name} cannot be fetched from {dataset.hub} on the hub"
            f" ({type(error).__name__}: {reason}); fetch it where there is a network"
            " and name its folder: data.path, or --manual_dir of"
            f" `python -m targetsft_jax.data build {name}`"
        ) from error


def _by_split(layout: Layout, paths: Iterable[str]) -> dict[str, list[str]]:
    paths = sorted(paths)
    found = {s: _matching(globs, paths) for s, globs in layout.splits.items()}
    found = {split: own for split, own in found.items() if own}
    for own in found.values():
        refuse_half(own)
    return found


def _matching(globs: Iterable[str], paths: list[str]) -> list[str]:
    """What the first pattern that finds anything finds, by path or as a bare name."""
    for glob in globs:
        bare = glob.rpartition("/")[2]
        for pattern in (glob, bare):
            for wanted in (pattern, f"{pattern}.gz"):
                hits = [
                    path
                    for path in paths
                    if fnmatchcase(path, wanted)
                    and path.count("/") == pattern.count("/")
                    and (pattern == glob or not bare.startswith("*"))
                ]
                if hits:
                    return hits
    return []
