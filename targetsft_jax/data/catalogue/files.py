"""Locate the published files of a data set, in a folder or on the hub."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from targetsft_jax.data.catalogue.entry import DataSet, FileLayout
from targetsft_jax.data.sources import refuse_missing_shards
from targetsft_jax.storage.user_path import user_path


@dataclass(frozen=True)
class Files:
    """Published files of a data set, from which it is built."""

    layout: FileLayout
    splits: Mapping[str, list[str]]
    """Files of each split, in order."""
    origin: str
    """The folder, or the repository and commit on the hub."""


def in_folder(name: str, dataset: DataSet, folder: str) -> Files:
    """Find the files of a data set in a folder, in any of its layouts.

    The folder may also have one file per split, named SPLIT.jsonl, SPLIT.jsonl.gz or
    SPLIT.parquet, with the fields of the first layout. Splits without files are left
    out.

    Raises:
        ValueError: no file of any split; a shard of a split is missing.
    """
    root = user_path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder; expected the files of {name}")
    paths = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
    plain = {
        split: [f"{split}.jsonl", f"{split}.parquet"]
        for split in dataset.layouts[0].splits
    }
    for layout in (*dataset.layouts, FileLayout(plain, dataset.layouts[0].example)):
        by_split = _by_split(layout, paths)
        if by_split:
            splits = {s: [str(root / p) for p in ps] for s, ps in by_split.items()}
            return Files(layout, splits, str(root))
    patterns = {
        pattern
        for layout in dataset.layouts
        for split_patterns in layout.splits.values()
        for pattern in split_patterns
    }
    raise ValueError(
        f"{folder} has no file of {name}; expected some of"
        f" {', '.join(sorted(patterns))}, as in {dataset.hub} on the hub or at"
        f" {dataset.homepage}"
    )


def from_hub(name: str, dataset: DataSet) -> Files:
    """Download the files of a data set from the hub, all of one commit, if not cached.

    Raises:
        ValueError: they cannot be downloaded, or have another layout.
    """
    import huggingface_hub

    layout = dataset.layouts[0]
    with _hub_errors(name, dataset):
        # The commit is requested once, so that files of two commits never mix.
        info = huggingface_hub.HfApi().dataset_info(dataset.hub)
    paths = [sibling.rfilename for sibling in info.siblings or []]
    by_split = _by_split(layout, paths)
    with _hub_errors(name, dataset):
        splits = {
            split: [
                huggingface_hub.hf_hub_download(
                    dataset.hub, path, repo_type="dataset", revision=info.sha
                )
                for path in split_paths
            ]
            for split, split_paths in by_split.items()
        }
    if not splits:
        raise ValueError(
            f"{dataset.hub} on the hub has none of the files that the entry of {name}"
            f" expects ({layout.splits}); it has {', '.join(sorted(paths)[:20])}"
        )
    return Files(layout, splits, f"{dataset.hub}@{info.sha}")


@contextlib.contextmanager
def _hub_errors(name: str, dataset: DataSet) -> Iterator[None]:
    """Replace errors of the hub's client by one that names the remedy."""
    try:
        yield
    except Exception as error:  # Errors of other libraries pass through the client.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name} cannot be downloaded from {dataset.hub} on the hub"
            f" ({type(error).__name__}: {reason}); download it on a machine with"
            " network access and specify the folder: data.path, or --manual-dir of"
            f" `python -m targetsft_jax.datasets build {name}`"
        ) from error


def _by_split(layout: FileLayout, paths: Iterable[str]) -> dict[str, list[str]]:
    paths = sorted(paths)
    matches = {s: _matches(globs, paths) for s, globs in layout.splits.items()}
    by_split = {split: paths for split, paths in matches.items() if paths}
    for split_paths in by_split.values():
        refuse_missing_shards(split_paths)
    return by_split


def _matches(globs: Iterable[str], paths: list[str]) -> list[str]:
    """Matches of the first pattern that has any, as a path or as a bare file name."""
    for glob in globs:
        bare = glob.rpartition("/")[2]
        for pattern in (glob, bare):
            for variant in (pattern, f"{pattern}.gz"):
                matches = [
                    path
                    for path in paths
                    if fnmatchcase(path, variant)
                    and path.count("/") == pattern.count("/")
                    and (pattern == glob or not bare.startswith("*"))
                ]
                if matches:
                    return matches
    return []
